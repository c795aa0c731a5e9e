// Sorts a table by the column whose heading is clicked, or on which Enter is pressed; again, the other way round.
for (const table of document.querySelectorAll("table:not(.heat)")) {
  const body = table.tBodies[0];
  const key = (row, column) => {
    const text = (row.cells[column]?.textContent ?? "").trim();
    const found = /^([-+−]?)<?(\d*\.?\d+)(?=[\s,]|$)/.exec(text);
    return found ? (found[1] === "-" || found[1] === "−" ? -1 : 1) * parseFloat(found[2]) : text;
  };
  const isEmpty = (value) => value === "" || value === "-";
  const compare = (a, b, sign) => {
    if (isEmpty(a) || isEmpty(b)) return isEmpty(a) - isEmpty(b); // last, whichever way round
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return sign * (typeof a === "number" ? a - b : a.localeCompare(b));
  };
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const sort = () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].map((row) => [key(row, column), row]);
      rows.sort(([a], [b]) => compare(a, b, down ? -1 : 1));
      body.append(...rows.map(([, row]) => row));
    };
    heading.tabIndex = 0;
    heading.classList.add("sorts");
    heading.addEventListener("click", sort);
    heading.addEventListener("keydown", (event) => event.key === "Enter" && sort());
  });
}
