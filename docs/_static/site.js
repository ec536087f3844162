// A table that is too wide for its place shows each row as a list: a heading and a value a line.
addEventListener("DOMContentLoaded", () => {
  const tables = [...document.querySelectorAll("article table")].filter((table) => table.tHead);
  for (const table of tables) {
    const heads = [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
    for (const row of table.tBodies[0].rows)
      [...row.cells].forEach((cell, at) => (cell.dataset.head = heads[at]));
  }
  const fit = () => {
    for (const table of tables) {
      table.classList.remove("rows");
      table.classList.toggle("rows", table.offsetWidth > table.parentElement.clientWidth);
    }
  };
  fit();
  document.fonts.ready.then(fit);
  addEventListener("resize", fit);
});
