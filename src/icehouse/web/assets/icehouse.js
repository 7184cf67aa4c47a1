// Comforts on top of pages that work without them: buttons that copy.
"use strict";

function say(text) {
  const place = document.getElementById("said");
  place.textContent = "";
  place.textContent = text;
}

async function copy(button) {
  const source = document.getElementById(button.dataset.copy);
  const label = button.firstChild;
  try {
    await navigator.clipboard.writeText(source.textContent);
    label.data = "Copied";
    say("Copied");
  } catch {
    // Without https there is no clipboard: mark the text, so that one more key copies it.
    getSelection().selectAllChildren(source);
    source.focus();
    label.data = "Marked";
    say("Marked; copy it with the keyboard");
  }
  setTimeout(() => { label.data = "Copy"; }, 2000);
}

function showButtons(root) {
  for (const button of root.querySelectorAll("button[data-copy]")) button.hidden = false;
}

document.addEventListener("click", (event) => {
  const button = event.target.closest?.("button[data-copy]");
  if (button) copy(button);
});
document.addEventListener("htmx:load", (event) => showButtons(event.detail.elt));
showButtons(document);

// Sliders beside numbers: either moves the other. The last place of a slider may stand for no bound at all.

function tell(slider, field) {
  slider.setAttribute("aria-valuetext", field.value === "" ? slider.dataset.none : `${field.value} ${slider.dataset.unit}`);
}

function follow(slider, field) {
  const isOpen = field.value.trim() === "" && slider.dataset.none;
  slider.value = isOpen ? slider.max : Number(field.value) || slider.min;
  tell(slider, field);
}

for (const slider of document.querySelectorAll("input[data-slides]")) {
  const field = document.getElementById(slider.dataset.slides);
  slider.hidden = false;
  follow(slider, field);
  slider.addEventListener("input", () => {
    field.value = slider.dataset.none && slider.value === slider.max ? "" : slider.value;
    tell(slider, field);
  });
  field.addEventListener("input", () => follow(slider, field));
}
