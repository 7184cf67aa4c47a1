// Keeps a part of a page up to date by events, each of which brings that part as the server renders it.
"use strict";

const part = document.querySelector("[data-live]");
const state = document.getElementById("live-state");

function tell(text) {
  if (state.textContent !== text) state.textContent = text;
}

if (part && "EventSource" in window) {
  const source = new EventSource(part.dataset.live);
  source.addEventListener("now", (event) => {
    // Whoever is in a table that scrolls, with the keyboard, stays there.
    const label = part.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
    part.innerHTML = event.data;
    if (label) part.querySelector(`[aria-label="${CSS.escape(label)}"]`)?.focus();
    tell("Kept up to date.");
  });
  source.addEventListener("over", () => {
    source.close();
    tell("Your session is over.");
  });
  source.addEventListener("error", () => {
    tell(source.readyState === EventSource.CLOSED ? "No longer kept up to date." : "The server does not answer; trying again.");
  });
  addEventListener("pagehide", () => source.close());
}
