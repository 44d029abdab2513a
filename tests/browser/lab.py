"""A notebook in a real JupyterLab or Notebook 7, in headless Chromium: run it, move its controls, look and listen."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = os.environ.get("UNISAT_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
    "--mute-audio",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",  # a microphone that beeps
]
# of JupyterLab and its kernel's connection, on every page
KNOWN_CONSOLE = ("favicon", "lsp", "workspace", "Could not determine jupyterlab", "Service Worker", "service worker")

SCRIPT = (Path(__file__).parent / "page.js").read_text(encoding="utf-8")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Lab:
    """A JupyterLab server of its own, nothing of the user's read or written, and a browser."""

    def __init__(self, folder: Path, notebooks: Path, **environment: str):
        self.folder, self.notebooks = folder, notebooks
        self.port, self.token = free_port(), secrets.token_hex(16)
        places = {
            name: folder / name for name in ("config", "data", "runtime", "ipython", "settings", "user", "spaces")
        }
        for place in places.values():
            place.mkdir(parents=True, exist_ok=True)
        overrides = {
            "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
            "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
            "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
        }
        (places["settings"] / "overrides.json").write_text(json.dumps(overrides))
        names = {"CONFIG_DIR": "config", "DATA_DIR": "data", "RUNTIME_DIR": "runtime"}
        outer = {key: value for key, value in os.environ.items() if not key.startswith(("JUPYTER", "PYTEST"))}
        environment = outer | environment | {f"JUPYTER_{key}": str(places[name]) for key, name in names.items()}
        environment |= {"IPYTHONDIR": str(places["ipython"]), "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
        settings = {
            "ServerApp.port": self.port,
            "ServerApp.root_dir": notebooks,
            "IdentityProvider.token": self.token,
            "LabApp.app_settings_dir": places["settings"],
            "LabApp.user_settings_dir": places["user"],
            "LabApp.workspaces_dir": places["spaces"],
            "LabApp.expose_app_in_browser": True,
            "JupyterNotebookApp.expose_app_in_browser": True,
            "LabApp.news_url": None,
            "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
        }
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
        command += [f"--{key}={value}" for key, value in settings.items()]
        self.log = (folder / "server.log").open("wb")
        self.server = subprocess.Popen(command, cwd=notebooks, env=environment, stdout=self.log, stderr=self.log)
        self.address = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        from playwright.sync_api import sync_playwright

        with contextlib.ExitStack() as stack:
            stack.callback(self._stop_server)
            self._wait_for_server()
            play = stack.enter_context(sync_playwright())
            self.browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            stack.callback(self.browser.close)
            self._opened = stack.pop_all()
        return self

    def __exit__(self, *_):
        self._opened.close()

    def _wait_for_server(self) -> None:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for _ in range(600):
            if self.server.poll() is not None:
                break
            with contextlib.suppress(OSError):
                opener.open(f"{self.address}/api?token={self.token}", timeout=5).close()
                return
            time.sleep(0.1)
        raise RuntimeError(f"JupyterLab did not start:\n{(self.folder / 'server.log').read_text()[-3000:]}")

    def _stop_server(self) -> None:
        self.server.terminate()
        self.server.wait(30)
        self.log.close()

    def open(self, notebook: str, width: int = 1280, height: int = 900, where: str = "lab/tree", **settings) -> Page:
        """Open a notebook in JupyterLab, or ``where="notebooks"`` in Notebook 7; settings as for ``new_page``."""
        return Page(self, notebook, where, viewport={"width": width, "height": height}, **settings)


class Page:
    """One notebook, open with a kernel of its own; closed with it."""

    def __init__(self, lab: Lab, notebook: str, where: str, **settings):
        self.lab, self.notebook = lab, notebook
        self.complaints: list[str] = []
        self.outside: list[str] = []
        self.page = lab.browser.new_page(reduced_motion="reduce", **settings)
        self.page.set_default_timeout(30_000)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error.stack or error)))
        self.page.on("request", self._request)
        self.page.add_init_script(SCRIPT)
        self.page.goto(f"{lab.address}/{where}/{notebook}?token={lab.token}&reset", wait_until="domcontentloaded")
        ready = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
        self.page.wait_for_function(ready, timeout=90_000)
        if where == "lab/tree":
            self.page.evaluate("jupyterapp.commands.execute('application:toggle-left-area')")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(Exception):
            self.page.evaluate("jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        self.page.close()

    def _console(self, message) -> None:
        # the server remembers files by name alone, and refuses those of JupyterLab that it has given to Notebook 7
        font = message.location.get("url", "").endswith(".woff2")
        if message.type == "error" and not font and not any(word in message.text for word in KNOWN_CONSOLE):
            self.complaints.append(message.text)

    def _request(self, request) -> None:
        if not request.url.startswith((self.lab.address, f"ws://127.0.0.1:{self.lab.port}", "data:", "blob:")):
            self.outside.append(request.url)

    def run(self) -> float:
        """Run every cell from top to bottom; gives the seconds."""
        started = time.perf_counter()
        self.page.set_default_timeout(180_000)
        self.page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
        self.idle()
        seconds = time.perf_counter() - started
        self.page.wait_for_timeout(600)  # views come after the kernel has finished
        self.page.set_default_timeout(30_000)
        return seconds

    def wear(self, theme: str) -> None:
        """Change JupyterLab's theme: "JupyterLab Light" or "JupyterLab Dark"."""
        self.page.evaluate("theme => jupyterapp.commands.execute('apputils:change-theme', { theme })", theme)
        light = str(theme.endswith("Light")).lower()
        self.page.wait_for_function(f"document.body.dataset.jpThemeLight === '{light}'")
        self.page.wait_for_timeout(500)

    def idle(self) -> None:
        """Wait until the kernel has nothing to do."""
        self.page.wait_for_function(
            "jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'", timeout=180_000
        )

    def rest(self) -> None:
        """Wait until the kernel has had nothing to do for a second: by then pages have asked ahead what they wanted."""
        self.page.evaluate("""() => new Promise((done) => {
            const { kernel } = jupyterapp.shell.currentWidget.sessionContext.session;
            let timer = setTimeout(done, 1000);
            kernel.statusChanged.connect(() => { clearTimeout(timer); timer = setTimeout(done, 1000); });
        })""")

    def ahead(self, on: bool) -> None:
        """Let pages ask ahead, or not."""
        self.python(f"""
from ipywidgets.widgets.widget import _instances
from unisat.widgets._stage import Stage
for one in _instances.values():
    if isinstance(one, Stage):
        one.asked = one.ahead or getattr(one, "asked", [])
        one.ahead = one.asked if {on} else []
""")

    def errors(self) -> list[str]:
        """What cells and widgets complain of: tracebacks, stderr, alerts."""
        return self.page.evaluate("""() => {
            const cells = jupyterapp.shell.currentWidget.content.model.toJSON().cells, found = [];
            cells.forEach((cell, i) => (cell.outputs || []).forEach((output) => {
                if (output.output_type === 'error') found.push(`cell ${i}: ${output.ename}: ${output.evalue}`);
                if (output.name === 'stderr') found.push(`cell ${i}: ${[output.text].flat().join('')}`);
            }));
            return found;
        }""")

    def alerts(self) -> list[str]:
        """What the widgets say that is wrong."""
        said = "[...document.querySelectorAll('.unisat-alert')].map((one) => one.textContent).filter((text) => text)"
        return self.page.evaluate(said)

    def names(self) -> dict:
        """Pictures, sounds and controls without a name, and controls that Tab does not reach."""
        return self.page.evaluate("unisat.names()")

    def views(self):
        """Handle of every widget on the page."""
        return self.page.locator(".jp-OutputArea-output .unisat").all()

    def controls(self, view) -> list[tuple[str, str, object]]:
        """Kind, name and handle of every control of a widget that is to be seen."""
        found = []
        for kind, selector in {
            "slider": "[role=slider]",
            "menu": "select",
            "check": "input[type=checkbox]",
            "toggle": "button.jupyter-button:not(.widget-play *)",  # nor those below the picture
            "file": "input[type=file]",
        }.items():
            for one in view.locator(selector).all():
                if one.is_visible():
                    name = (
                        one.get_attribute("aria-label")
                        or one.inner_text()
                        or one.evaluate("e => e.labels?.[0]?.textContent")
                    )
                    found.append((kind, (name or "").strip(), one))
        return found

    @staticmethod
    def enabled(control) -> bool:
        """Whether a control can be moved now."""
        gone = "e => e.disabled || e.closest('[disabled]') !== null || e.getAttribute('aria-disabled') === 'true'"
        return not control.evaluate(gone)

    @staticmethod
    def at_its_end(slider) -> bool:
        """Whether a slider can go no further up."""
        return slider.get_attribute("aria-valuenow") == slider.get_attribute("aria-valuemax")

    def step(self, kind: str, control, back: bool = False, key: str | None = None) -> None:
        """Do with a control what a reader does: a key for a slider, the next choice of a menu, a click."""
        if kind == "slider":
            control.focus()
            self.page.keyboard.press(key or ("ArrowLeft" if back else "ArrowRight"))
        elif kind == "menu":
            count = control.evaluate("e => e.options.length")
            now = control.evaluate("e => e.selectedIndex")
            control.select_option(index=(now + 1) % count)
        else:
            control.click()

    def timed(self, view, kind: str, control, back: bool = False, key: str | None = None) -> dict:
        """Step a control and watch the picture: ``first`` in ms or None, ``changed``, ``blank`` ms, ``jump`` in px."""
        view.evaluate("view => unisat.watch(view)")
        self.step(kind, control, back, key)
        with contextlib.suppress(Exception):
            self.page.wait_for_function("unisat.seen.first !== null", timeout=3000, polling="raf")
        self.idle()
        self.page.wait_for_timeout(60)
        return self.page.evaluate("unisat.stop()")

    def python(self, code: str) -> str:
        """Run code in the notebook's kernel, and give what it prints."""
        return self.page.evaluate(
            """async (code) => {
                const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel;
                const done = kernel.requestExecute({ code, silent: true, store_history: false }), said = [];
                done.onIOPub = (message) => {
                    if (message.header.msg_type === 'stream') said.push(message.content.text);
                };
                await done.done;
                return said.join('');
            }""",
            code,
        )

    def instrument(self, kind: str, view: int | None = None) -> Instrument:
        """Handle of a widget of a class, such as "MaskView"; `view` is its place on the page, or that in the kernel."""
        return Instrument(self, kind, view)

    def memory(self) -> tuple[float, float]:
        """Megabytes of the kernel and of the page, after both have collected their garbage."""
        code = "import gc, resource; gc.collect(); print(open('/proc/self/statm').read().split()[1])"
        pages = int(self.python(code))
        browser = self.page.context.new_cdp_session(self.page)
        browser.send("Performance.enable")
        for _ in range(3):
            browser.send("HeapProfiler.collectGarbage")
            self.page.wait_for_timeout(100)
        metrics = {one["name"]: one["value"] for one in browser.send("Performance.getMetrics")["metrics"]}
        browser.detach()
        heap = metrics["JSHeapUsedSize"]
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, heap / 1e6


class Instrument:
    """A widget on a page and its object in the kernel, where matplotlib says which pixel shows which number."""

    FIND = """
import json
import numpy as np
from ipywidgets.widgets.widget import _instances
from unisat.widgets._picture import Picture
every = [one for one in _instances.values() if isinstance(one, Picture)]
number, widget = [(number, one) for number, one in enumerate(every) if type(one).__name__ == {kind!r}][-1]
"""

    def __init__(self, page: Page, kind: str, view: int | None):
        self.page, self.kind, self.mouse, self.keyboard = page, kind, page.page.mouse, page.page.keyboard
        number = self.ask("number") if view is None else view
        self.view = shown = page.page.locator(".jp-OutputArea-output .unisat").nth(number)
        self.canvas, self.over = (shown.locator(f"canvas.unisat-{name}") for name in ("drawing", "over"))

    def ask(self, value: str):
        """Value of an expression of `widget` in the kernel."""
        said = self.page.python(self.found(f"print(json.dumps({value}, default=lambda one: np.asarray(one).tolist()))"))
        return json.loads(said)

    def found(self, code: str) -> str:
        """Code that runs with `widget`."""
        return f"{self.FIND.format(kind=self.kind)}\n{code}"

    def place(self, axes: str, x: float, y: float) -> tuple[float, float]:
        """Where on the screen a point of an axes lies."""
        pixels = f"widget.{axes}.transData.transform(({x!r}, {y!r})) / widget.figure.bbox.size"
        across, up = self.ask(pixels)
        self.canvas.scroll_into_view_if_needed()
        box = self.canvas.bounding_box()
        return box["x"] + across * box["width"], box["y"] + (1 - up) * box["height"]

    def hover(self, axes: str, x: float, y: float) -> str:
        """Point there; gives what the picture says."""
        self.mouse.move(*self.place(axes, x, y))
        return self.tip

    def click(self, axes: str, x: float, y: float) -> None:
        """Click there, and wait for the kernel."""
        self.mouse.click(*self.place(axes, x, y))
        self.settle()

    def double_click(self, axes: str, x: float, y: float) -> None:
        """Click there twice."""
        self.mouse.dblclick(*self.place(axes, x, y))
        self.settle()

    def drag(self, first: tuple[float, float], *others: tuple[float, float]) -> None:
        """Go from place to place on the screen with the button down."""
        self.mouse.move(*first)
        self.mouse.down()
        for place in others:
            self.mouse.move(*place, steps=5)
        self.mouse.up()
        self.settle()

    def words(self, *keys: str) -> list[str]:
        """Every text that is written on the picture when the last of these keys is pressed."""
        self.press(*keys[:-1])
        self.canvas.evaluate("""(canvas) => {
            const pen = canvas.getContext('2d');
            canvas.words = [];
            pen.fillText = (...all) => {
                canvas.words.push(all[0]);
                CanvasRenderingContext2D.prototype.fillText.apply(pen, all);
            };
        }""")
        self.press(keys[-1])
        return self.canvas.evaluate("(canvas) => (delete canvas.getContext('2d').fillText, canvas.words)")

    def button(self, name: str) -> None:
        """Click a button, and wait for the kernel."""
        self.view.get_by_role("button", name=name, exact=True).click()
        self.settle()

    def download(self, name: str) -> tuple[str, bytes]:
        """Name and content of the file that a button saves."""
        with self.page.page.expect_download() as saved:
            self.button(name)
        return saved.value.suggested_filename, Path(saved.value.path()).read_bytes()

    def look(self) -> str:
        """A number that changes with the pixels of the picture."""
        return self.view.evaluate("view => unisat.look(unisat.picture(view))")

    def press(self, *keys: str) -> None:
        """Press keys on the picture, and wait for it."""
        self.canvas.focus()
        for key in keys:
            self.keyboard.press(key)
        self.settle()

    def settle(self) -> None:
        """Wait until the kernel and the picture have done what they were asked for."""
        self.page.page.wait_for_timeout(50)
        self.page.idle()
        self.page.page.wait_for_timeout(150)

    @property
    def tip(self) -> str:
        """What the picture says of the place that is pointed at."""
        return self.view.locator(".unisat-tip").inner_text()

    @property
    def lines(self) -> int:
        """How many time axes show the cursor."""
        return int(self.over.get_attribute("data-lines"))

    def player(self, what: str, number: int = 0):
        """A property of a player."""
        return self.view.locator("audio").nth(number).evaluate(f"player => player.{what}")
