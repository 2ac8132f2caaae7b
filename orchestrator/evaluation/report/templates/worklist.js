"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const items = data.items;
  const find = (id) => document.getElementById(id);
  let state = { at: 0, answers: {}, changes: [] };
  let shown = false; // whether the heat map is in place of the X-ray

  const say = (text) => { find("status").textContent = text; };
  const keep = (action) => {
    try {
      action();
    } catch {
      say("This browser keeps no answers: export before you leave the page.");
    }
  };
  // An entry for each answer: two tabs of one worklist, or one that did not see what is stored,
  // overwrite nothing of each other.
  const name = (row) => `${data.key}-${row}`;
  const load = () => keep(() => {
    for (const { row } of items) {
      const answer = JSON.parse(localStorage.getItem(name(row)));
      if (answer) state.answers[row] = answer;
    }
    const last = JSON.parse(localStorage.getItem(data.key));
    if (last && Array.isArray(last.changes)) Object.assign(state, last);
    state.at = Math.min(Math.max(0, Number(state.at) || 0), items.length - 1);
  });
  const store = (row) => keep(() => {
    if (state.answers[row]) localStorage.setItem(name(row), JSON.stringify(state.answers[row]));
    else localStorage.removeItem(name(row));
  });
  const count = () => items.filter((item) => state.answers[item.row]).length;

  const draw = () => {
    const item = items[state.at];
    const given = state.answers[item.row];
    find("picture").src = shown && item.heatmap ? item.heatmap : item.picture;
    find("picture").alt = `X-ray ${state.at + 1} of ${items.length}`;
    find("place").textContent = given ? item.path : "";  // a folder may name the label
    find("title").textContent = `Image ${state.at + 1} of ${items.length}`;
    for (const [key, answer] of Object.entries(data.answers)) {
      find(`answer-${key}`).setAttribute("aria-pressed", String(Boolean(given) && given.answer === answer));
    }
    if (find("heatmap")) {
      find("heatmap").disabled = !item.heatmap;
      find("heatmap").setAttribute("aria-pressed", String(shown && Boolean(item.heatmap)));
    }
    const facts = [["Your answer", given ? given.answer : "none yet"]];
    if (given) {
      facts.push(["Called by the model", `${item.called}, probability ${item.probability.toFixed(3)}`]);
      if (item.label) facts.push(["Label", item.label]);
      for (const word of (item.reasons || "").split(",").filter(Boolean)) {
        facts.push(["Why it is here", data.meanings[word] || word]);
      }
    }
    find("facts").replaceChildren(...facts.flatMap(([name, value]) => {
      const term = document.createElement("dt");
      const text = document.createElement("dd");
      term.textContent = name;
      text.textContent = value;
      return [term, text];
    }));
    find("progress").value = count();
    find("progress-text").textContent = `${count()} of ${items.length} read`;
  };

  const move = (to) => {
    state.at = Math.min(Math.max(0, to), items.length - 1);
    shown = false;
    keep(() => localStorage.setItem(data.key, JSON.stringify({ at: state.at, changes: state.changes })));
    draw();
  };
  const answer = (key) => {
    const row = items[state.at].row;
    state.changes.push([state.at, state.answers[row] || null]);
    state.answers[row] = { answer: data.answers[key], at: new Date().toISOString() };
    store(row);
    say(`Image ${state.at + 1}: ${data.answers[key]}`);
    move(state.at + 1);
  };
  const undo = () => {
    const last = state.changes.pop();
    if (!last) return say("Nothing to undo");
    const [place, before] = last;
    if (before) state.answers[items[place].row] = before;
    else delete state.answers[items[place].row];
    store(items[place].row);
    say(`Image ${place + 1}: answer undone`);
    return move(place);
  };
  const toggle = () => {
    if (!items[state.at].heatmap) return;
    shown = !shown;
    draw();
  };

  // A spreadsheet runs a cell that begins so as a formula; the import does not read such cells.
  const cell = (value) => {
    const text = /^[=+\-@\t\r]/.test(String(value)) ? `'${value}` : String(value);
    return `"${text.replaceAll('"', '""')}"`;
  };
  const save = () => {
    const lines = [data.columns.map(cell).join(",")];
    for (const item of items) {
      const given = state.answers[item.row];
      if (given) lines.push([item.row, item.path, item.sha256, given.answer, given.at].map(cell).join(","));
    }
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([lines.join("\r\n") + "\r\n"], { type: "text/csv" }));
    link.download = data.file;
    link.click();
    URL.revokeObjectURL(link.href);
    say(`${lines.length - 1} answers exported`);
  };

  const actions = {
    p: () => answer("p"), n: () => answer("n"), u: () => answer("u"),
    z: undo, Backspace: undo, h: toggle, e: save,
    ArrowRight: () => move(state.at + 1), ArrowDown: () => move(state.at + 1),
    ArrowLeft: () => move(state.at - 1), ArrowUp: () => move(state.at - 1),
  };
  document.addEventListener("keydown", (event) => {
    const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action || event.altKey || event.metaKey || (event.ctrlKey && event.key !== "z")) return;
    event.preventDefault();
    action();
  });
  const buttons = {
    "answer-p": "p", "answer-n": "n", "answer-u": "u", undo: "z", heatmap: "h", export: "e",
    next: "ArrowRight", previous: "ArrowLeft",
  };
  for (const [id, key] of Object.entries(buttons)) {
    if (find(id)) find(id).addEventListener("click", actions[key]);
  }
  load();
  draw();
})();
