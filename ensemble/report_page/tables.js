// Tables that are sorted by clicking a heading; long ones show more rows on demand.

const PAGE_ROWS = 20;
const NARROW_ROWS = 10;
const MORE_ROWS = 100;

function sortButton(heading, title, onclick) {
  const button = element("button", { type: "button", class: title.length < 10 ? "sort short" : "sort", onclick }, title);
  heading.replaceChildren(button);
}

function markSorted(headings, column, direction) {
  headings.forEach((heading, index) => {
    if (index === column) heading.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    else heading.removeAttribute("aria-sort");
  });
}

// Compares numbers by value and texts alphabetically; empty values come last in both directions.
function compareValues(a, b, direction) {
  const empty = (value) => value === null || value === "" || Number.isNaN(value);
  if (empty(a) || empty(b)) return Number(empty(a)) - Number(empty(b));
  const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  return direction * order;
}

// Makes a table that is already in the page sortable.
function sortable(table) {
  const headings = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const valueOf = (row, column) => {
    const text = row.cells[column].textContent;
    const number = Number(text.replaceAll(",", ""));
    return text.trim() === "" || Number.isNaN(number) ? text : number;
  };
  let sorted = { column: -1, direction: 1 };
  headings.forEach((heading, column) => sortButton(heading, heading.textContent, () => {
    sorted = { column, direction: sorted.column === column ? -sorted.direction : 1 };
    const rows = [...body.rows].sort((a, b) => compareValues(valueOf(a, column), valueOf(b, column), sorted.direction));
    body.append(...rows);
    markSorted(headings, column, sorted.direction);
  }));
}

// columns: [{title, value(item), text(value), shade(item), falling, wide}]; `falling` sorts from high to low first. `onopen` makes the first cell a button.
// The first `page` rows are shown, and more on demand.
// Returns the table's element, show(items) and ordered(), which returns the items in sorted order.
function dataTable({ label, columns, items, onopen = null, sortedBy = null, direction = 1, page = PAGE_ROWS }) {
  const headings = columns.map(() => element("th", { scope: "col" }));
  const body = element("tbody");
  const more = element("button", { type: "button" });
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...headings)), body);
  let sorted = { column: sortedBy, direction };
  let ordered = items;
  let shown = page;

  function cellOf(column, item, first) {
    const value = column.value(item);
    const number = typeof value === "number";
    const text = column.text ? column.text(value) : number ? String(value) : value;
    const cell = element(first ? "th" : "td", { class: number ? "number" : column.wide ? "wide" : null, scope: first ? "row" : null });
    cell.append(first && onopen ? element("button", { type: "button", class: "open", onclick: () => onopen(item) }, text) : text ?? "");
    const shade = column.shade ? column.shade(item) : null;
    if (shade !== null && !Number.isNaN(shade)) {
      cell.classList.add("shaded");
      cell.style.setProperty("--shade", `${Math.round(100 * Math.min(Math.max(shade, 0), 1) * 0.55)}%`);
    }
    return cell;
  }

  function draw() {
    const rows = ordered.slice(0, shown);
    body.replaceChildren(...rows.map((item) => element("tr", {}, ...columns.map((column, index) => cellOf(column, item, index === 0)))));
    more.hidden = ordered.length <= shown;
    more.textContent = `Show ${Math.min(MORE_ROWS, ordered.length - shown)} more of ${ordered.length}`;
  }

  function sort() {
    if (sorted.column !== null) {
      const value = columns[sorted.column].value;
      const keyed = ordered.map((item) => [value(item), item]);
      ordered = keyed.sort((a, b) => compareValues(a[0], b[0], sorted.direction)).map(([, item]) => item);
      markSorted(headings, sorted.column, sorted.direction);
    }
    draw();
  }

  headings.forEach((heading, column) => sortButton(heading, columns[column].title, () => {
    const again = sorted.column === column;
    sorted = { column, direction: again ? -sorted.direction : columns[column].falling ? -1 : 1 };
    shown = page;
    sort();
  }));
  more.addEventListener("click", () => {
    shown += MORE_ROWS;
    draw();
  });
  const show = (chosen) => {
    ordered = chosen;
    shown = page;
    sort();
  };
  show(items);
  return { element: element("div", {}, scroller(label, table), more), show, ordered: () => ordered };
}
