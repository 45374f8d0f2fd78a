// The data of the page, the state of its controls, and what both together show. Counts are made from the kinds that
// the evaluator gave; nothing is matched again.

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
