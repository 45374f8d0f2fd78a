// The controls, above all the score slider. Whatever changes the state calls update(), which redraws what can be
// seen; the state is kept in the address, so that a view can be shared.

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
  showCounts(counts);
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
