"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const descending = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const numeric = heading.classList.contains("number");
      const rows = [...table.tBodies[0].rows].sort((a, b) =>
        numeric ? parseFloat(key(a)) - parseFloat(key(b)) : key(a).localeCompare(key(b), "en", { numeric: true })
      );
      table.tBodies[0].append(...(descending ? rows.reverse() : rows));
    });
  });
}
addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details")) fold.open = true;
});
