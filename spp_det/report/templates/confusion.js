// Counts of each kind by class, and which classes are taken for which: both at the slider's score.

const cellsOf = (table) => [...$(table).tBodies[0].rows].map((row) => [...row.cells].slice(1));
const countCells = cellsOf("counts"), confusionCells = cellsOf("confusion");
const shownKinds = [...KINDS.keys()].filter((kind) => kind !== IGNORED);
function showCounts(counts) {
  countCells.forEach((cells, label) => cells.forEach((cell, i) => { cell.textContent = counts[label].kinds[shownKinds[i]]; }));
  const none = classes.length, matrix = confusionCells.map((cells) => cells.map(() => 0));
  for (const image of images) {
    for (const { label, kind, score, object } of image.found) {
      if (score < state.score || kind === IGNORED) continue;
      matrix[kind === CORRECT || kind === CONFUSED ? object.label : none][label]++;
    }
    for (const { label, counts: easy, foundAt } of image.objects) if (easy && foundAt < state.score) matrix[label][none]++;
  }
  confusionCells.forEach((cells, row) => {
    const total = matrix[row].reduce((a, b) => a + b, 0);
    cells.forEach((cell, column) => {
      const count = matrix[row][column];
      cell.textContent = count || "";
      cell.style.setProperty("--share", count / (total || 1));
      cell.classList.toggle("right", row === column);
    });
  });
}
