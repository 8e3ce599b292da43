"""The page's fonts, all of them the system's, and its few lines of script."""

from pathlib import Path

FONTS = [
    "system-ui",
    "-apple-system",
    "Segoe UI",
    "Roboto",
    "Helvetica Neue",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "sans-serif",
]
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"]

STYLE = Path(__file__).with_name("page.css")

# A click on whatever carries data-act is told to the server; forms open and close here. The places of drafts are given here, by
# button, key or drag, until the order is sent: what is drawn anew meanwhile is marked again (attributes alone, so that no marking
# leads to another).
THREAD_SCRIPT = """
const orders = new Map();
const answersOf = (turn) => [...turn.querySelectorAll('.n-answer')].map((card) => card.dataset.reply);
const orderOf = (turn) => orders.get(turn.dataset.turn) || [];
const mark = (turn) => {
  const order = orderOf(turn), send = turn.querySelector('[data-act=ranking]');
  if (!send || !orders.has(turn.dataset.turn)) return;
  send.disabled = order.length < 2;
  turn.querySelectorAll('.n-answer').forEach((card) => {
    const place = order.indexOf(card.dataset.reply) + 1;
    if (place) card.setAttribute('data-place', place); else card.removeAttribute('data-place');
  });
};
const put = (turn, order) => { orders.set(turn.dataset.turn, order); mark(turn); };
const toggle = (turn, reply) => {
  const order = orderOf(turn);
  put(turn, order.includes(reply) ? order.filter((one) => one !== reply) : [...order, reply]);
};
const sendOrder = (turn) => {
  const order = orderOf(turn);
  if (order.length > 1) trigger('said', {act: 'ranking', reply: order[0], order: order});
};
const lastOrdered = () => [...element.querySelectorAll('.n-turn')].filter((turn) => turn.querySelector('.n-order')).pop();
new MutationObserver(() => element.querySelectorAll('.n-turn').forEach(mark)).observe(element, {childList: true, subtree: true});
document.addEventListener('keydown', (event) => {
  const turn = element.isConnected && element.offsetParent !== null && lastOrdered();
  if (!turn || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest('input, textarea, select, [contenteditable=true]')) return;
  const reply = /^[1-9]$/.test(event.key) && answersOf(turn)[Number(event.key) - 1];
  if (reply) toggle(turn, reply);
  else if (event.key === 'Enter' && !event.target.closest('button, a')) sendOrder(turn);
  else if (event.key === 'Escape' && orderOf(turn).length) put(turn, []);
  else return;
  event.preventDefault();
});
element.addEventListener('dragstart', (event) => {
  const card = event.target.closest('.n-answer');
  if (card) event.dataTransfer.setData('text/plain', card.dataset.reply);
});
element.addEventListener('dragover', (event) => { if (event.target.closest('.n-answer')) event.preventDefault(); });
element.addEventListener('drop', (event) => {
  const card = event.target.closest('.n-answer'), turn = card && card.closest('.n-turn');
  const moved = event.dataTransfer.getData('text/plain');
  if (!turn || !turn.querySelector('.n-order') || !answersOf(turn).includes(moved)) return;
  event.preventDefault();
  const order = orderOf(turn), whole = [...order, ...answersOf(turn).filter((reply) => !order.includes(reply))];
  const place = whole.indexOf(card.dataset.reply), rest = whole.filter((reply) => reply !== moved);
  put(turn, [...rest.slice(0, place), moved, ...rest.slice(place)]);
});
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (!button) return;
  const act = button.dataset.act, card = button.closest('[data-reply]'), turn = button.closest('.n-turn');
  if (act === 'ranking') { sendOrder(turn); return; }
  if (act === 'clear-order') { put(turn, []); return; }
  if (!card) return;
  if (act === 'place') { toggle(turn, card.dataset.reply); return; }
  const forms = card.querySelectorAll('.n-form');
  const show = (kind) => forms.forEach((form) => { form.hidden = form.dataset.form !== kind || !form.hidden; });
  if (act === 'close') { forms.forEach((form) => { form.hidden = true; }); return; }
  if (act.startsWith('open-')) {
    show(act.slice(5));
    const open = [...forms].find((form) => !form.hidden);
    const box = open && open.querySelector('textarea');
    if (box) { box.focus(); box.setSelectionRange(box.value.length, box.value.length); }
    return;
  }
  const form = button.closest('.n-form');
  const text = form ? form.querySelector('textarea').value : '';
  trigger('said', {act: act, reply: card.dataset.reply, text: text, memory: button.dataset.memory || ''});
});
"""

# The newest words stay in sight while they come, unless the reader has scrolled up.
LIVE_SCRIPT = """
const talk = document.getElementById('n-talk');
let following = true;
if (talk) {
  talk.addEventListener('scroll', () => { following = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 80; });
  let last = 0;
  new MutationObserver(() => {
    const turns = talk.querySelectorAll('.n-turn').length;
    if (following || turns > last) talk.scrollTop = talk.scrollHeight;
    last = turns;
  }).observe(talk, {childList: true, subtree: true, characterData: true});
}
"""

# What stands behind the # of a link is taken out of the address before it is sent.
ONCE_SCRIPT = """
const once = new URLSearchParams(window.location.hash.slice(1)).get('once');
if (once) {
  window.history.replaceState(null, '', window.location.pathname + window.location.search);
  const key = document.getElementById('n-key');
  key.type = 'hidden';
  key.value = once;
  document.getElementById('n-login').submit();
}
"""

LOGIN_STYLE = """
:root { color-scheme: light dark; --ink: #14242b; --soft: #5b6d76; --card: #fff; --line: #e1e8ec; --accent: #0f766e;
  --bad: #b3372f; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6eef1; --soft: #9db0b9; --card: #16222a; --line: #26353d; --accent: #2dd4bf; --bad: #f2938b; }
}
body { margin: 0; background: color-mix(in srgb, var(--card) 94%, var(--soft)); color: var(--ink); }
main { box-sizing: border-box; width: min(420px, 100% - 32px); margin: 12vh auto 0; padding: 28px 24px; background: var(--card);
  border: 1px solid var(--line); border-radius: 14px; text-align: center; }
main .n-wheel { width: 56px; height: 56px; color: var(--accent); }
h1 { font-size: 20px; margin: 10px 0 18px; }
label { display: block; text-align: left; font-size: 13px; color: var(--soft); margin-bottom: 6px; }
input { box-sizing: border-box; width: 100%; padding: 10px 12px; font: inherit; color: inherit; background: none;
  border: 1px solid var(--line); border-radius: 10px; }
button { width: 100%; margin-top: 12px; padding: 10px; font: inherit; font-weight: 600; color: var(--card);
  background: var(--accent); border: 0; border-radius: 10px; cursor: pointer; }
p { font-size: 13px; line-height: 1.6; color: var(--soft); }
p.n-trouble { color: var(--bad); }
"""

BOARD_SCRIPT = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act=rollback]');
  if (button && window.confirm(button.dataset.sure)) trigger('said', {act: 'rollback', to: Number(button.dataset.to)});
});
"""

# Whatever carries data-act is told to the server, with the document that it names.
SHELF_SCRIPT = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (!button) return;
  trigger('said', {act: button.dataset.act, id: button.dataset.id || ''});
  // Where it stands below the list, it would be out of sight.
  if (button.dataset.id && window.innerWidth <= 640) document.getElementById('n-reading').scrollIntoView({behavior: 'smooth'});
});
"""

# What is ticked stays ticked when the rows are drawn anew; how many are meant is said before anything is decided. A dropped file
# goes to the page's own server, and nothing of it further until the person says so.
ROOM_SCRIPT = """
const ticked = new Set();
let everything = false;
const boxes = () => [...element.querySelectorAll('input[data-id]')];
const meant = () => {
  const all = element.querySelector('input[data-all]');
  return everything && all ? Number(all.dataset.all) : ticked.size;
};
const mark = () => {
  const here = boxes();
  for (const id of [...ticked]) if (!here.some((box) => box.dataset.id === id)) ticked.delete(id);
  here.forEach((box) => { box.checked = everything || ticked.has(box.dataset.id); });
  const shown = element.querySelector('input[data-shown]'), all = element.querySelector('input[data-all]');
  if (!all) everything = false;
  if (all) all.checked = everything;
  if (shown) shown.checked = here.length > 0 && here.every((box) => box.checked);
  element.querySelectorAll('[data-verb]').forEach((button) => {
    if (button.disabled !== (meant() === 0)) button.disabled = meant() === 0;
  });
};
// Where rows are drawn anew, a button may stay as it was and get its attribute back.
new MutationObserver(mark).observe(element, {childList: true, subtree: true, attributeFilter: ['disabled']});
element.addEventListener('change', (event) => {
  const box = event.target;
  if (box.dataset.file !== undefined) { drop(box.files[0]); return; }
  if (box.name === 'clean') { trigger('said', {act: 'look', clean: box.checked}); return; }
  if (box.dataset.all) everything = box.checked;
  else if (box.dataset.shown !== undefined) {
    everything = false;
    boxes().forEach((one) => { if (box.checked) ticked.add(one.dataset.id); else ticked.delete(one.dataset.id); });
  } else if (box.dataset.id) {
    if (everything) { everything = false; boxes().forEach((one) => ticked.add(one.dataset.id)); }
    if (box.checked) ticked.add(box.dataset.id); else ticked.delete(box.dataset.id);
  } else return;
  mark();
});
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act], [data-verb]');
  if (!button) return;
  if (button.dataset.verb) {
    const n = meant();
    if (!n || !window.confirm(button.dataset.sure.replace('[n]', n))) return;
    trigger('said', {act: 'decide', verb: button.dataset.verb, ids: everything ? [] : [...ticked], count: everything ? n : null});
    ticked.clear(); everything = false;
    return;
  }
  trigger('said', {act: button.dataset.act, id: button.dataset.id || ''});
  if (['story', 'why'].includes(button.dataset.act) && window.innerWidth <= 900) {
    document.getElementById('n-tale').scrollIntoView({behavior: 'smooth'});
  }
});
element.addEventListener('submit', (event) => {
  event.preventDefault();
  const form = event.target, said = Object.fromEntries(new FormData(form));
  if (form.dataset.of) trigger('said', {act: form.dataset.of, wanted: said});
  else if (form.classList.contains('n-sieve')) trigger('said', {act: 'look-for', wanted: said});
  else trigger('said', {act: 'bring', clean: 'clean' in said, skip: 'skip' in said, person: said.person || ''});
});
const drop = async (file) => {
  if (!file) return;
  const answer = await fetch('/dropped?name=' + encodeURIComponent(file.name), {method: 'POST', body: file});
  trigger('said', {act: 'look', clean: false, trouble: answer.ok ? '' : (await answer.json()).error});
};
element.addEventListener('dragover', (event) => { if (event.target.closest('.n-drop')) event.preventDefault(); });
element.addEventListener('drop', (event) => {
  if (!event.target.closest('.n-drop')) return;
  event.preventDefault();
  drop(event.dataTransfer.files[0]);
});
"""

# Keys and buttons judge what is held; a form opens and closes here.
QUEUE_SCRIPT = """
const held = () => element.querySelector('[data-item]');
const act = (button) => {
  const item = held(), form = item.querySelector('.n-form'), what = button.dataset.act;
  if (what === 'open-edit') {
    form.hidden = false;
    const box = form.querySelector('[name=output]');
    box.focus();
    box.setSelectionRange(box.value.length, box.value.length);
    form.scrollIntoView({block: 'nearest'});
  } else if (what === 'close') form.hidden = true;
  else {
    const boxes = form ? [...form.querySelectorAll('textarea')] : [];
    const fields = Object.fromEntries(boxes.map((box) => [box.name, box.value]));
    trigger('said', {act: what, item: item.dataset.item, fields: fields, takes: button.dataset.takes || ''});
  }
};
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (button && held()) act(button);
});
document.addEventListener('keydown', (event) => {
  const item = element.isConnected && element.offsetParent !== null && held();
  if (!item) return;
  const form = item.querySelector('.n-form');
  let button;
  if (form && !form.hidden) {
    const saves = event.key === 'Enter' && (event.ctrlKey || event.metaKey);
    button = form.querySelector(event.key === 'Escape' ? '[data-act=close]' : saves ? '[data-act=edit]' : 'none');
  } else if (!event.ctrlKey && !event.metaKey && !event.altKey && !event.target.closest('input, textarea, select'))
    button = [...item.querySelectorAll('[data-key]')].find((one) => one.dataset.key === event.key.toLowerCase());
  if (!button) return;
  event.preventDefault();
  act(button);
});
"""

# Another domain's queue.
LINE_SCRIPT = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act=domain]');
  if (button) trigger('said', {domain: button.dataset.id});
});
"""

# Whose session has ended is asked for a key again.
HEAD_SCRIPT = """
if (!window.noriaFetch) {
  window.noriaFetch = window.fetch;
  window.fetch = async (...asked) => {
    const answer = await window.noriaFetch(...asked);
    if (answer.status === 401) window.location.assign('/login' + window.location.search);
    return answer;
  };
}
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-lang]');
  if (!button) return;
  const url = new URL(window.location.href);
  url.searchParams.set('lang', button.dataset.lang);
  window.history.replaceState(null, '', url);
  document.documentElement.lang = button.dataset.lang === 'zh' ? 'zh-CN' : 'en';
  trigger('said', {lang: button.dataset.lang});
});
"""
