// The table of classes and the precision-recall curves.

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
