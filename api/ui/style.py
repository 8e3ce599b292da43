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

# A click on whatever carries data-act is told to the server; forms open and close here.
THREAD_SCRIPT = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (!button) return;
  const act = button.dataset.act, card = button.closest('.n-answer');
  if (!card) return;
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
  trigger('said', {act: act, reply: card.dataset.reply, text: form ? form.querySelector('textarea').value : ''});
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

BOARD_SCRIPT = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act=rollback]');
  if (button && window.confirm(button.dataset.sure)) trigger('said', {act: 'rollback', to: Number(button.dataset.to)});
});
"""

HEAD_SCRIPT = """
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
