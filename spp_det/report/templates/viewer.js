// The viewer: one image, large, with a list of all its boxes.

function open(index, thing = null) {
  state.image = index;
  state.chosen = thing;
  showViewer();
  writeAddress();
}
function close() {
  state.image = -1;
  state.chosen = null;
  if (viewer.open) viewer.close();
  writeAddress();
}
function step(by) {
  const order = images.filter(matters).map(({ index }) => index);
  const at = order.indexOf(state.image);
  open(order[(at + by + order.length) % order.length] ?? state.image);
}
function showViewer() {
  if (state.image < 0) return;
  const image = images[state.image];
  $("viewer-name").textContent = $("viewer-name").title = image.name;
  $("viewer-place").textContent = `${image.index + 1} of ${images.length}`;
  const boxes = drawn(image);
  const fit = make("div", "fit", picture(image), overlay(whole(image), boxes.map(({ group }) => group)));
  fit.style.width = `min(100cqw, ${(100 * image.width) / image.height}cqh)`;
  fit.style.aspectRatio = `${image.width} / ${image.height}`;
  const found = shownIn(image).sort((a, b) => b.score - a.score), missed = missedIn(image);
  const tags = new Map([...found, ...missed].map((thing) => [thing, tagOf(thing, image)]));
  fit.append(...tags.values());
  empty($("stage"));
  $("stage").append(fit);
  const highlight = (chosen) => {
    for (const { thing, group } of boxes) {
      group.classList.toggle("dim", Boolean(chosen) && thing !== chosen && thing !== chosen.object);
    }
    for (const [thing, tag] of tags) tag.hidden = chosen ? thing !== chosen : tags.size > MOST_TAGS;
  };
  const line = (thing) => {
    const [name, why] = inWords(thing);
    const row = button(thing === state.chosen ? "chosen" : "", () => {
      state.chosen = state.chosen === thing ? null : thing;
      for (const other of $("list").querySelectorAll("button")) other.classList.toggle("chosen", other === row && state.chosen);
      highlight(state.chosen);
    }, make("span", `swatch ${KINDS[thing.kind]}`), make("span", "text", name), make("span", "", scoreOf(thing)),
    ...(thing.kind === MISSED ? [] : [make("span", "why", [KINDS[thing.kind], why].filter(Boolean).join(", "))]));
    for (const event of ["pointerenter", "focus"]) row.addEventListener(event, () => highlight(thing));
    for (const event of ["pointerleave", "blur"]) row.addEventListener(event, () => highlight(state.chosen));
    return row;
  };
  const part = (title, things) => (things.length ? [make("h3", "", `${things.length} ${title}`), ...things.map(line)] : []);
  const lines = [...part("shown", found), ...part("missed", missed)];
  $("list").replaceChildren(...(lines.length ? lines : [make("h3", "", "Nothing found at this score, nothing missed.")]));
  if (!viewer.open) viewer.showModal();
  highlight(state.chosen);
}
// A tag sits on its box, or inside it at the top of the image, and grows away from the nearer side.
function tagOf(thing, image) {
  const [x1, y1, x2, y2] = thing.box;
  const tag = make("div", "tag", `${classes[thing.label]} ${scoreOf(thing) || "missed"}`);
  if ((x1 + x2) / 2 <= image.width / 2) tag.style.left = `${Math.max(0, (100 * x1) / image.width)}%`;
  else tag.style.right = `${Math.max(0, 100 - (100 * x2) / image.width)}%`;
  if (y1 > 0.08 * image.height) tag.style.bottom = `${100 - (100 * y1) / image.height}%`;
  else if (y2 < 0.92 * image.height) tag.style.top = `${(100 * y2) / image.height}%`;
  else tag.style.top = 0;
  return tag;
}
