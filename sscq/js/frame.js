// A page in the frame of a notebook: as tall as what it holds, with a state that a kernel can read and set, and the notebook keeps.
import { mount } from "./component.js";

function parsed(text) {
  try { return JSON.parse(text); } catch { return null; }
}

// The state it begins with is the frame's own, where the frame was only moved; else what the notebook keeps; else `begins`
export async function framed(host, name, packed, begins) {
  let frame = null, kept = null;
  try {
    frame = frameElement;  // null where the page stands alone, or in the page of another origin
    kept = frame?.dataset.of && parent.document.querySelector(`.sscq-state[data-of="${frame.dataset.of}"]`)?.dataset.state;
  } catch { /* another origin's */ }
  new ResizeObserver(() => { if (frame) frame.style.height = `${host.offsetHeight + 2}px`; }).observe(host);
  const api = await mount(host, name, packed, { heading: "h1", kept: parsed(frame?.dataset.state ?? kept) ?? begins, changed(state) {
    if (!frame) return;
    frame.dataset.state = JSON.stringify(state);
    frame.dispatchEvent(new Event("sscq-changed", { bubbles: true }));
  } });
  if (!frame || !api) return;
  frame.addEventListener("sscq-set", () => api.take(parsed(frame.dataset.state) ?? {}));
  frame.dispatchEvent(new Event("sscq-here", { bubbles: true }));
}
