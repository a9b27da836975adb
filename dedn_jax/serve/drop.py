"""Where a picture is dropped: it is sent to `PICTURE_PATH`, and not through Gradio's upload.

Gradio writes uploads to a temporary folder; here they stay in memory.
"""

from __future__ import annotations

PICTURE_PATH = "/picture"
LOOKED = "looked"  # the event, when the server has looked at a picture
CHOSEN = "chosen"  # the event, when an example was pressed

TEMPLATE = """
<label class="drop"><input type="file" accept="image/*" aria-label="Choose a picture">
<span class="idle"><b>Drop a picture here</b> or press to choose one</span>
<span class="busy">Looking at it ...</span></label>
<p class="alert" role="alert"></p>
"""

STYLE = """
font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a;
.drop { display: flex; align-items: center; justify-content: center; min-height: 6.5rem;
  padding: 1rem; border: 2px dashed #8a8a8a; border-radius: 8px; background: #fafafa;
  cursor: pointer; text-align: center; }
.drop:hover, .drop.over, .drop:focus-within { border-color: #0072b2; background: #eef6fb; }
.drop input { position: absolute; opacity: 0; width: 1px; height: 1px; }
.drop .busy, .drop.sending .idle { display: none; } .drop.sending .busy { display: inline; }
.alert { color: #8f1d14; font-weight: 600; margin: .3rem 0 0; overflow-wrap: anywhere; }
.alert:empty { display: none; }
"""


def script(max_bytes: int) -> str:
    """Sends what is dropped, chosen or pasted, at most `max_bytes`; shows what went wrong."""
    megabytes = f"{max_bytes / 1e6:g}"
    return f"""
const drop = element.querySelector('.drop'), input = element.querySelector('input');
const alert = element.querySelector('.alert');
async function send(file) {{
  if (!file) return;
  alert.textContent = '';
  if (file.size > {max_bytes}) {{
    alert.textContent = `${{(file.size / 1e6).toFixed(1)}} MB, expected at most {megabytes} MB`;
    return;
  }}
  drop.classList.add('sending');
  try {{
    const answer = await fetch('.{PICTURE_PATH}', {{method: 'POST', body: file,
      headers: {{'Content-Type': 'application/octet-stream'}}}});
    const found = await answer.json();
    if (found.error) alert.textContent = found.error;
    else trigger('{LOOKED}', {{token: found.token}});
  }} catch (error) {{
    alert.textContent = 'The program does not answer; see whether it still runs.';
  }} finally {{
    drop.classList.remove('sending');
    input.value = '';
  }}
}}
input.addEventListener('change', () => send(input.files[0]));
for (const name of ['dragenter', 'dragover']) drop.addEventListener(name, event => {{
  event.preventDefault(); drop.classList.add('over'); }});
for (const name of ['dragleave', 'drop']) drop.addEventListener(name, event => {{
  event.preventDefault(); drop.classList.remove('over'); }});
drop.addEventListener('drop', event => send(event.dataTransfer.files[0]));
document.addEventListener('paste', event => {{
  const file = [...event.clipboardData.files].find(f => f.type.startsWith('image/'));
  if (file) send(file);
}});
"""


EXAMPLES_SCRIPT = f"""
element.addEventListener('click', event => {{
  const button = event.target.closest('[data-example]');
  if (!button) return;
  document.querySelector('#drop .alert').textContent = '';
  trigger('{CHOSEN}', {{example: Number(button.dataset.example)}});
}});
"""
