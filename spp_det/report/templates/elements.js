// Makers of elements: HTML, SVG, and the pictures with their boxes. Names are only ever written as text.

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}
function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
function button(className, onClick, ...children) {
  const element = make("button", className, ...children);
  element.type = "button";
  element.addEventListener("click", onClick);
  return element;
}
const decimal = (score) => (Math.round(100 * score) / 100 + 0).toFixed(2); // + 0: never "-0.00"
const scoreOf = (thing) => (thing.kind === MISSED ? "" : decimal(thing.score));
const percent = (value) => (Number.isFinite(value) ? (100 * value).toFixed(1) : "\u2013");
// Part of an image, [x, y, width, height] in its pixels. A canvas rather than an <img>: its memory is given back
// when we say so, and a thousand images scrolled past would otherwise stay decoded.
function picture(image, [x, y, width, height] = whole(image)) {
  const canvas = make("canvas");
  decode(image).then((bitmap) => {
    if (canvas.isConnected) {
      const scale = bitmap.width / image.width;
      canvas.width = Math.max(1, Math.round(width * scale));
      canvas.height = Math.max(1, Math.round(height * scale));
      canvas.getContext("2d").drawImage(bitmap, -x * scale, -y * scale);
      canvas.dataset.drawn = "yes";
    }
    bitmap.close();
  }, () => { canvas.dataset.drawn = "blank"; }); // the file could not be read when the page was made
  return canvas;
}
async function decode(image) {
  const text = atob($(`picture-${image.index}`).textContent), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return createImageBitmap(new Blob([bytes], { type: "image/jpeg" }));
}
function empty(element) {
  for (const canvas of element.querySelectorAll("canvas")) canvas.width = canvas.height = 0;
  element.replaceChildren();
}
function boxOf(thing, className) {
  const [x1, y1, x2, y2] = thing.box;
  const place = { x: x1, y: y1, width: Math.max(0, x2 - x1), height: Math.max(0, y2 - y1) };
  return svg("g", {}, svg("rect", { ...place, class: "halo" }), svg("rect", { ...place, class: className }));
}
// Objects below, then detections, the highest score on top.
function drawn(image) {
  const objects = !state.truth ? [] : image.objects.filter(ofClass).map((object) => [
    object, isMissed(object) ? "missed" : object.counts ? "truth" : "truth uncounted",
  ]);
  const found = shownIn(image).sort((a, b) => a.score - b.score).map((one) => [one, KINDS[one.kind]]);
  return [...objects, ...found].map(([thing, className]) => ({ thing, group: boxOf(thing, className) }));
}
const overlay = (view, groups) => svg("svg", { viewBox: view.join(" "), "aria-hidden": "true" }, ...groups);
const whole = (image) => [0, 0, image.width, image.height];
