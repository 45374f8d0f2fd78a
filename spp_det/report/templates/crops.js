// The kinds of right and wrong, and a crop of each detection or missed object of the chosen kind.

let crops = new Map(); // thing -> its card, of those on the page
function showKinds(total) {
  for (const chip of document.querySelectorAll(".kind")) {
    const kind = KINDS.indexOf(chip.dataset.kind);
    chip.querySelector("b").textContent = total.kinds[kind];
    chip.setAttribute("aria-pressed", kind === state.kind);
  }
  $("meaning").textContent = MEANINGS[state.kind];
  const things = state.kind === MISSED
    ? images.flatMap(missedIn).sort((a, b) => b.area - a.area)
    : images.flatMap((image) => shownIn(image).filter((one) => one.kind === state.kind)).sort((a, b) => b.score - a.score);
  const before = crops;
  crops = new Map(things.slice(0, state.crops).map((thing) => [thing, before.get(thing) ?? crop(thing)]));
  before.forEach((card, thing) => crops.has(thing) || empty(card));
  $("crops").replaceChildren(...crops.values());
  $("more").hidden = things.length <= state.crops;
  $("more").textContent = `Show ${Math.min(PAGE, things.length - state.crops)} more of ${things.length}`;
}
function crop(thing) {
  const { image, box: [x1, y1, x2, y2] } = thing;
  const side = 1.5 * Math.max(x2 - x1, y2 - y1, 16);
  const view = [(x1 + x2 - side) / 2, (y1 + y2 - side) / 2, side, side];
  const boxes = [boxOf(thing, KINDS[thing.kind])];
  if (thing.object) boxes.unshift(boxOf(thing.object, "truth"));
  const [name, why] = inWords(thing);
  return button("card", () => open(image.index, thing),
    make("span", "frame", picture(image, view), overlay(view, boxes)),
    make("span", "caption", make("span", "text", name), make("span", "", scoreOf(thing))),
    make("span", "caption", make("span", "text", why || image.name)));
}
// A name, and what its box has to do with the truth.
function inWords(thing) {
  const name = classes[thing.label];
  if (thing.kind === MISSED || thing.kind === BACKGROUND) return [name, ""];
  const iou = `IoU ${thing.iou.toFixed(2)}`;
  return [name, thing.kind === CONFUSED ? `is ${classes[thing.object.label]}, ${iou}` : iou];
}
