// What the page does beyond htmx: nothing of it is needed, and nothing of it runs without a person's browser.
(() => {
  "use strict";
  const find = (id) => document.getElementById(id);

  // The one-time token stands behind the #: out of the address and the history, into the form.
  const token = find("token");
  if (token && location.hash.length > 1) {
    token.value = decodeURIComponent(location.hash.slice(1));
    history.replaceState(null, "", location.pathname + location.search);
    find("sign-in").requestSubmit();
  }

  // Choosing all rows of a page.
  const tickAll = () => {
    const all = find("tick-all");
    if (all) all.hidden = false;
  };
  const ticks = () => [...document.querySelectorAll("#rows input[name=id]")];
  tickAll();
  document.addEventListener("change", (event) => {
    if (event.target.id === "tick-all") ticks().forEach((one) => { one.checked = event.target.checked; });
    else if (event.target.name === "id" && find("tick-all")) find("tick-all").checked = ticks().every((one) => one.checked);
  });

  // No row moves away under who is choosing or reading it.
  const busy = () => ticks().some((one) => one.checked) || find("rows").contains(document.activeElement);
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (event.detail.target.id !== "rows" || event.detail.xhr.status !== 200) return;
    if (busy()) {
      event.detail.shouldSwap = false;
      find("changed").hidden = false;
    } else {
      find("changed").hidden = true;
    }
  });
  document.addEventListener("htmx:afterSwap", tickAll);

  // A table that was opened stays open.
  const opened = new Set();
  document.addEventListener("toggle", (event) => {
    if (event.target.tagName === "DETAILS") opened[event.target.open ? "add" : "delete"](event.target.id);
  }, true);
  document.addEventListener("htmx:oobAfterSwap", () => {
    opened.forEach((id) => { if (find(id)) find(id).open = true; });
  });

  // What is shown is old when the console does not answer.
  const stale = (is) => { if (find("stale")) find("stale").hidden = !is; };
  for (const name of ["htmx:sendError", "htmx:timeout"]) document.addEventListener(name, () => stale(true));
  document.addEventListener("htmx:responseError", (event) => stale(event.detail.xhr.status >= 500));
  document.addEventListener("htmx:afterRequest", (event) => { if (event.detail.successful) stale(false); });

  // In the place of a picture that there is none of, why: the answer says it in words.
  const picture = document.querySelector(".picture img");
  const noPicture = async () => {
    const said = document.querySelector(".no-picture");
    picture.hidden = true;
    said.hidden = false;
    try {
      const answer = await fetch(picture.src);
      if (answer.status === 422) said.textContent = await answer.text();
    } catch { /* the sentence that stands there is true enough */ }
  };
  if (picture) {
    if (picture.complete && !picture.naturalWidth) noPicture();
    else picture.addEventListener("error", noPicture);
  }
})();
