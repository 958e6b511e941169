// Between a kernel and the frames of one explorable: an anywidget that is never displayed, so that a notebook stores nothing of it.
export default {
  initialize({ model }) {
    const of = model.get("of"), types = ["sscq-here", "sscq-changed"];
    let waiting;
    const show = (frame) => {
      const text = JSON.stringify(model.get("state"));
      if (frame.dataset.state === text) return;
      frame.dataset.state = text;
      frame.dispatchEvent(new Event("sscq-set"));
    };
    const showAll = () => document.querySelectorAll(`iframe[data-of="${of}"]`).forEach(show);
    const heard = ({ type, target }) => {
      if (target.dataset?.of !== of) return;
      if (type === "sscq-here") return show(target);
      clearTimeout(waiting);  // while something is dragged, the kernel is left in peace
      waiting = setTimeout(() => {
        model.set("state", JSON.parse(target.dataset.state));
        model.save_changes();
      }, 200);
    };
    for (const type of types) document.addEventListener(type, heard);
    model.on("change:state", showAll);
    showAll();
    return () => {
      clearTimeout(waiting);
      for (const type of types) document.removeEventListener(type, heard);
    };
  },
};
