"use strict";
const $ = (selector, from = document) => from.querySelector(selector);
const make = (tag, name, text) => {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
};
let about = null;
let key = sessionStorage.getItem("demur-key") || "";
const sides = [];

function headers() {
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

function complain(text) {
  $("#notice").textContent = text;
  $("#notice").hidden = !text;
}

class Side {
  constructor(name, chosen) {
    this.root = $("#side").content.firstElementChild.cloneNode(true);
    $("#sides").append(this.root);
    this.turns = [];
    this.last = "";
    this.run = null;
    this.root.setAttribute("aria-label", name);
    $(".name", this.root).textContent = name;
    $(".talk", this.root).setAttribute("aria-label", `Conversation, ${name.toLowerCase()}`);
    this.which = $(".which", this.root);
    for (const model of about.models) {
      const option = make("option", "", model.demur.intervention || "no intervention");
      option.value = model.id;
      this.which.append(option);
    }
    this.which.selectedIndex = Math.min(chosen, about.models.length - 1);
    this.slider = $(".slider", this.root);
    this.which.addEventListener("change", () => { this.slider.value = 1; this.show(); this.again(); });
    this.slider.addEventListener("input", () => this.show());
    this.slider.addEventListener("change", () => this.again());
    this.reset();
    this.show();
  }

  get model() { return about.models[this.which.selectedIndex]; }

  show() {
    const own = this.model.demur, strength = Number(this.slider.value);
    this.slider.disabled = !own.adjustable;
    $(".value", this.root).textContent = own.adjustable ? strength.toFixed(1) : own.intervention ? "fixed" : "–";
    $("pre", this.root).textContent = own.intervention ? own.does : "the model as it is";
    const plain = !own.intervention || strength === 0;
    const state = plain ? "base" : strength === 1 ? own.floor.state : "not measured";
    const words = { base: "no intervention acts", kept: "safety floor kept", missed: "safety floor missed", "not measured": "safety floor not measured" };
    const badge = $(".floor", this.root);
    badge.textContent = words[state];
    badge.className = `floor ${state === "not measured" ? "unmeasured" : state}`;
    $(".verdict", this.root).textContent = plain ? "" : strength === 1 ? `Floor: ${own.floor.verdict}.` : "Floor: it was not measured at this strength.";
  }

  reset() {
    this.stop();
    this.turns = [];
    this.last = "";
    $(".talk", this.root).replaceChildren(make("p", "empty", "Nothing asked yet."));
    this.place(null);
  }

  stop() { if (this.run) this.run.abort(); }

  again() { if (this.last) { this.turns = this.turns.slice(0, -2); this.ask(this.last); } }

  async ask(text) {
    this.stop();
    const run = this.run = new AbortController();
    const history = about.single ? [] : this.turns.slice();
    const messages = [...history, { role: "user", content: text }];
    this.last = text;
    this.turns = [...messages, { role: "assistant", content: "" }];
    const bubble = this.draw();
    bubble.classList.add("busy");
    busy();
    try {
      await this.read(messages, run, (part) => {
        this.turns[this.turns.length - 1].content += part;
        bubble.textContent += part;
        $(".talk", this.root).scrollTop = 1e9;
      });
      if (!bubble.textContent) bubble.textContent = "(empty answer)";
    } catch (error) {
      if (run === this.run && error.name !== "AbortError") {
        bubble.classList.add("failed");
        bubble.textContent += `${bubble.textContent ? "\n" : ""}${error.message}`;
      }
    } finally {
      bubble.classList.remove("busy");
      if (run === this.run) this.run = null;
      busy();
    }
  }

  async read(messages, run, add) {
    const body = {
      model: this.model.id, messages, stream: true, boundary: Boolean(about.boundary),
      temperature: Number($("#temperature").value), seed: Number($("#seed").value), max_tokens: Number($("#tokens").value),
    };
    if (this.model.demur.adjustable) body.strength = Number(this.slider.value);
    const reply = await fetch("/v1/chat/completions", { method: "POST", headers: headers(), body: JSON.stringify(body), signal: run.signal });
    if (!reply.ok) throw new Error((await reply.json()).error.message);
    const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let held = "";;) {
      const { done, value } = await reader.read();
      if (done) return;
      const events = (held + value).split("\n\n");
      held = events.pop();
      for (const line of events) {
        const data = line.replace(/^data: /, "");
        if (data === "[DONE]") continue;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new Error(chunk.error.message);
        if (chunk.demur) this.place(chunk.demur.boundary);
        const part = chunk.choices[0]?.delta?.content;
        if (part) add(part);
      }
    }
  }

  draw() {
    const talk = $(".talk", this.root);
    talk.replaceChildren(...this.turns.map((turn) => make("div", `turn ${turn.role}`, turn.content)));
    talk.scrollTop = 1e9;
    return talk.lastElementChild;
  }

  place(found) {
    const chance = found?.p_refuse;
    const known = typeof chance === "number";
    $(".chance", this.root).value = known ? chance : 0;
    $(".chance", this.root).textContent = $(".percent", this.root).textContent = known ? `${(100 * chance).toFixed(1)} %` : "no data";
    const stands = found && typeof found.d === "number";
    const mark = $(".mark", this.root);
    mark.hidden = !stands;
    if (stands) mark.style.left = `${Math.min(98, Math.max(2, 50 + 12.5 * found.d))}%`;
    const text = stands
      ? `t ${found.t.toFixed(2)}, boundary ${found.t_star.toFixed(2)}, d ${found.d.toFixed(1)}`
      : found?.unusable ? `not usable: ${found.unusable}` : about.boundary ? "no data" : "no boundary fitted";
    $(".told", this.root).textContent = text;
    const side = stands ? (found.d > 0 ? " (on the refusing side)" : " (on the answering side)") : "";
    $(".strip", this.root).setAttribute("aria-label", `Coordinate: ${text}${side}`);
  }
}

function busy() {
  $("#stop").disabled = !sides.some((side) => side.run);
}

function send() {
  const text = $("#text").value.trim();
  if (!text) return;
  complain("");
  for (const side of sides) side.ask(text);
  $("#text").select();
}

$("#ask").addEventListener("submit", (event) => { event.preventDefault(); send(); });
$("#text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape") for (const side of sides) side.stop(); });
$("#stop").addEventListener("click", () => { for (const side of sides) side.stop(); });
$("#clear").addEventListener("click", () => { for (const side of sides) side.reset(); $("#text").value = ""; $("#text").focus(); });
$("#unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("#key").value;
  sessionStorage.setItem("demur-key", key);
  begin();
});

async function begin() {
  try {
    const reply = await fetch("/v1/demur", { headers: headers() });
    $("#unlock").hidden = reply.status !== 401;
    if (reply.status === 401) {
      $("#model").textContent = "locked";
      if (key) complain("The key is not known here.");
      return;
    }
    if (!reply.ok) throw new Error((await reply.json()).error.message);
    complain("");
    about = await reply.json();
  } catch (error) {
    complain(`The server cannot be reached: ${error.message}`);
    return;
  }
  const count = about.models.length - 1;
  $("#model").textContent = `${about.models[0].id} · ${count} intervention${count === 1 ? "" : "s"}${about.single ? " · single turns only" : ""}`;
  $("#tokens").max = about.longest;
  $("#tokens").value = Math.min(256, Math.max(1, Math.floor(about.longest / 2)));
  $("#examples").replaceChildren(...about.examples.map((text) => {
    const button = make("button", "", text);
    button.type = "button";
    button.addEventListener("click", () => { $("#text").value = text; send(); });
    return button;
  }));
  $("#sides").replaceChildren();
  sides.splice(0, sides.length, new Side("Left", 0), new Side("Right", 1));
  $("#text").focus();
}
begin();
