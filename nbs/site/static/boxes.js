// What scrolls sideways in a box of its own can be reached by keyboard, and says what it is.
(() => {
  const boxes = { "div.highlight pre": "code", "pre.output": "output", ".output": "output", "div.math": "formula", ".table-wrapper": "table", ".graph": "picture", "figure.live, figure.still": "" };
  const reach = window.sscqReach = () => {
    for (const [which, what] of Object.entries(boxes)) for (const box of document.querySelectorAll(which)) {
      if (box.scrollWidth <= box.clientWidth + 1 || box.tabIndex >= 0) continue;
      box.tabIndex = 0;
      if (!what) continue;
      box.setAttribute("role", "group");
      box.setAttribute("aria-label", `${what}, wider than the page: the arrow keys scroll it`);
    }
  };
  for (const moment of ["DOMContentLoaded", "load", "resize"]) addEventListener(moment, reach);
})();
