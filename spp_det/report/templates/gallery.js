// The gallery of all images. A card has content only while it is near the screen.

const visible = new Set();
const cards = images.map((image) => button("card", () => open(image.index), make("span", "frame"), make("span", "caption")));
const place = new Map(cards.map((card, index) => [card, index]));
const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const index = place.get(target);
    if (isIntersecting) {
      visible.add(index);
      showCard(index);
    } else if (visible.delete(index)) {
      empty(target.children[0]);
      empty(target.children[1]);
    }
  }
}, { rootMargin: "600px" });
function showCard(index) {
  const image = images[index], [frame, caption] = cards[index].children;
  const groups = drawn(image).map(({ group }) => group);
  frame.replaceChildren(frame.querySelector("canvas") ?? picture(image), overlay(whole(image), groups));
  const found = shownIn(image);
  const tallies = KINDS.map((name, kind) => [
    name, kind, kind === MISSED ? missedIn(image).length : found.filter((one) => one.kind === kind).length,
  ]).filter(([, , count]) => count);
  caption.replaceChildren(make("span", "text", image.name),
    ...tallies.map(([name, , count]) => make("span", "tally", make("span", `swatch ${name}`), String(count))));
  cards[index].ariaLabel = [image.name, ...tallies.map(([name, , count]) => `${count} ${name}`)].join(", ");
}
function showGallery() {
  let count = 0;
  images.forEach((image, index) => {
    cards[index].hidden = !matters(image);
    count += !cards[index].hidden;
  });
  $("image-count").textContent = count === images.length ? count : `${count} of ${images.length}`;
  visible.forEach(showCard);
}
