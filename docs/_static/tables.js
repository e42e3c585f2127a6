// A table that is wider than its place becomes a list of rows, in which each value stands beneath its column's name.
"use strict";
(() => {
  const tables = () => document.querySelectorAll(".table-wrapper > table:not(.autosummary)");

  function label(table) {
    const names = [...table.querySelectorAll("thead th")].map((one) => one.textContent.trim());
    if (!names.length) return false;
    table.setAttribute("role", "table");
    table.style.setProperty("--columns", Math.max(1, names.length - 1)); // the first is a row's title
    for (const row of table.querySelectorAll("tr")) {
      row.setAttribute("role", "row");
      [...row.cells].forEach((cell, index) => {
        cell.setAttribute("role", cell.tagName === "TH" ? "columnheader" : "cell");
        if (cell.tagName === "TD") cell.dataset.label = names[index] ?? "";
      });
    }
    return true;
  }

  function fit() {
    for (const table of tables()) {
      table.classList.remove("stacked");
      if (table.offsetWidth > table.parentElement.clientWidth && label(table)) table.classList.add("stacked");
    }
  }
  addEventListener("DOMContentLoaded", fit);
  addEventListener("load", fit); // when the fonts are here
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; fit(); } });
})();
