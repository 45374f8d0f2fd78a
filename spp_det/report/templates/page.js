"use strict";
// One state, one update: whatever changes the state calls update(), which redraws what can be seen. Counts are
// made here from the kinds that the evaluator gave; nothing is matched again. Names are only ever written as text.
(() => {
  const KINDS = ["correct", "localisation", "confused", "duplicate", "background", "ignored", "missed"];
  const [CORRECT, , CONFUSED, , BACKGROUND, IGNORED, MISSED] = KINDS.keys();
  const MEANINGS = [
    "IoU of at least .5 with an object of the class, and the first to find it.",
    "On an object of the class, but loosely: IoU from .1 up to .5.",
    "IoU of at least .5 with an object of another class.",
    "On an object that a detection of a higher score has found already.",
    "On nothing that is annotated.",
    "",
    "Objects that no correct detection of this score finds; the largest first.",
  ];
  const PAGE = 24; // crops shown at a time
  const MOST_TAGS = 12; // boxes in the viewer that are named without being asked

  const $ = (id) => document.getElementById(id);
  const { classes, best, pooled, images } = JSON.parse($("data").textContent);
  images.forEach((image, index) => {
    image.index = index;
    image.objects = image.objects.map(([x1, y1, x2, y2, label, foundAt]) => ({
      box: [x1, y1, x2, y2], label, image, counts: foundAt !== true, foundAt: foundAt === null ? -Infinity : foundAt,
      kind: MISSED, area: (x2 - x1) * (y2 - y1),
    }));
    image.found = image.found.map(([x1, y1, x2, y2, label, score, kind, object, iou]) => ({
      box: [x1, y1, x2, y2], label, score, kind, iou, image, object: image.objects[object],
    }));
  });
  const slider = $("score"), gallery = $("gallery"), viewer = $("viewer");
  const state = { score: pooled, label: -1, kind: MISSED, image: -1, truth: true, crops: PAGE, chosen: null };

  // ---- what is shown at the state's score and class
  const ofClass = (thing) => state.label < 0 || thing.label === state.label;
  const isShown = (detection) => detection.score >= state.score && ofClass(detection);
  const isMissed = (object) => object.counts && object.foundAt < state.score && ofClass(object);
  const shownIn = (image) => image.found.filter(isShown);
  const missedIn = (image) => image.objects.filter(isMissed);
  const matters = (image) => state.label < 0 || image.objects.some(ofClass) || image.found.some(isShown);

  function countAll() {
    const count = classes.map(() => ({ objects: 0, kinds: KINDS.map(() => 0) }));
    for (const image of images) {
      for (const { label, kind, score } of image.found) if (score >= state.score) count[label].kinds[kind]++;
      for (const { label, counts, foundAt } of image.objects) {
        count[label].objects += counts;
        count[label].kinds[MISSED] += counts && foundAt < state.score;
      }
    }
    return count.map(rates);
  }
  function rates({ objects, kinds }) {
    const shown = kinds.slice(CORRECT, IGNORED).reduce((a, b) => a + b, 0);
    const precision = shown ? kinds[CORRECT] / shown : NaN;
    const recall = objects ? kinds[CORRECT] / objects : NaN;
    return { objects, kinds, shown, precision, recall, f1: (2 * kinds[CORRECT]) / (shown + objects) };
  }
  const sum = (counts) => rates({
    objects: counts.reduce((total, one) => total + one.objects, 0),
    kinds: KINDS.map((_, kind) => counts.reduce((total, one) => total + one.kinds[kind], 0)),
  });

  // ---- small makers of elements
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

  // ---- classes: table and curves
  const rows = [...$("classes").tBodies[0].rows];
  function showClasses(counts) {
    for (const row of rows) {
      const one = counts[row.dataset.label];
      const texts = [String(one.shown), percent(one.precision), percent(one.recall), percent(one.f1)];
      row.querySelectorAll(".live").forEach((cell, i) => { cell.textContent = texts[i]; });
      row.classList.toggle("chosen", Number(row.dataset.label) === state.label);
    }
    for (const chart of document.querySelectorAll(".curve")) {
      const one = counts[chart.dataset.label], dot = chart.querySelector(".dot");
      dot.setAttribute("visibility", one.shown && one.objects ? "visible" : "hidden");
      dot.setAttribute("cx", 160 * (one.recall || 0));
      dot.setAttribute("cy", 140 * (1 - (one.precision || 0)));
      chart.setAttribute("aria-pressed", Number(chart.dataset.label) === state.label);
    }
  }
  function sortBy(column) {
    const head = $("classes").tHead.rows[0].cells;
    const down = head[column].ariaSort === "none" ? column > 0 : head[column].ariaSort === "ascending";
    for (const cell of head) cell.ariaSort = "none";
    head[column].ariaSort = down ? "descending" : "ascending";
    const value = (row) => Number.parseFloat(row.cells[column].textContent);
    const undefinedLast = (a, b) => Number.isNaN(a) - Number.isNaN(b);
    const order = column === 0
      ? (a, b) => a.cells[0].textContent.localeCompare(b.cells[0].textContent) * (down ? -1 : 1)
      : (a, b) => undefinedLast(value(a), value(b)) || (value(a) - value(b)) * (down ? -1 : 1);
    $("classes").tBodies[0].append(...rows.sort(order));
  }

  // ---- kinds and crops
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

  // ---- gallery: a card has content only while it is near the screen
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

  // ---- viewer: one image, large, with all its boxes listed
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

  // ---- the state: shown, and kept in the address so that a view can be shared
  function update() {
    const counts = countAll(), total = state.label < 0 ? sum(counts) : counts[state.label];
    slider.value = state.score;
    slider.ariaValueText = $("score-value").textContent = decimal(state.score);
    $("class").value = state.label < 0 ? "" : String(state.label);
    $("truth").checked = state.truth;
    $("summary").textContent =
      `${total.shown + total.kinds[IGNORED]} detections shown: ${total.kinds[CORRECT]} of ${total.objects} objects found, ` +
      `precision ${percent(total.precision)} %, recall ${percent(total.recall)} %, F1 ${percent(total.f1)} %`;
    showClasses(counts);
    showKinds(total);
    showGallery();
    showViewer();
  }
  function writeAddress() {
    const parts = new URLSearchParams({ score: state.score });
    if (state.label >= 0) parts.set("class", classes[state.label]);
    parts.set("kind", KINDS[state.kind]);
    if (state.image >= 0) parts.set("image", state.image + 1);
    history.replaceState(null, "", `#${parts}`);
  }
  function readAddress() {
    const parts = new URLSearchParams(location.hash.slice(1));
    const score = Number.parseFloat(parts.get("score"));
    const kind = KINDS.indexOf(parts.get("kind")), image = Number.parseInt(parts.get("image"), 10) - 1;
    state.score = Number.isFinite(score) ? score : pooled;
    state.label = classes.indexOf(parts.get("class"));
    state.kind = kind < 0 || kind === IGNORED ? MISSED : kind;
    state.image = image in images ? image : -1;
    state.chosen = null;
    if (state.image < 0 && viewer.open) viewer.close();
    update();
  }
  let waiting = false;
  function change(part) {
    Object.assign(state, { crops: PAGE }, part);
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      update();
    });
  }
  const keep = (part) => { change(part); writeAddress(); };
  const choose = (label) => keep({ label: label === state.label ? -1 : label });

  classes.forEach((name, label) => $("class").append(new Option(name, label)));
  slider.addEventListener("input", () => change({ score: Math.round(slider.value * 1000) / 1000 }));
  slider.addEventListener("change", writeAddress);
  $("best").addEventListener("click", () => keep({ score: best[state.label] ?? pooled }));
  $("class").addEventListener("change", (event) => keep({ label: event.target.value === "" ? -1 : Number(event.target.value) }));
  $("truth").addEventListener("change", (event) => change({ truth: event.target.checked }));
  $("more").addEventListener("click", () => change({ crops: state.crops + PAGE }));
  document.querySelectorAll(".curve").forEach((chart) => chart.addEventListener("click", () => choose(Number(chart.dataset.label))));
  document.querySelectorAll(".kind").forEach((chip) => chip.addEventListener("click", () => keep({ kind: KINDS.indexOf(chip.dataset.kind) })));
  document.querySelectorAll("#classes thead button").forEach((head, column) => head.addEventListener("click", () => sortBy(column)));
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("close").addEventListener("click", close);
  viewer.addEventListener("close", close);
  viewer.addEventListener("click", (event) => { if (event.target === viewer) close(); });
  addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by && viewer.open) step(by);
  });
  document.querySelector(".controls").addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", readAddress);
  gallery.append(...cards);
  cards.forEach((card) => watcher.observe(card));
  readAddress();
})();
