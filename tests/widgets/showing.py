"""What stands on a page with one explorable: its state, its words."""


def frame(page):
    """Wait until what has changed is painted."""
    page.evaluate("() => new Promise(requestAnimationFrame)")


def readout(page, label):
    return page.locator(".mv-readouts div", has_text=label).locator("dd")


def state(page, name):
    """The value of a knob."""
    return page.evaluate(
        "(name) => document.querySelector('.mv-explorable').model.get(name)",
        name,
    )


def words_outside(page):
    """The texts that do not lie inside the picture, those hidden aside."""
    return page.locator(".mv-stage svg").first.evaluate(
        """(root) => {
          const frame = root.getBoundingClientRect();
          return [...root.querySelectorAll("text")].filter((text) => {
            const box = text.getBoundingClientRect();
            return box.width && (
              box.left < frame.left - 1 || box.right > frame.right + 1 ||
              box.bottom > frame.bottom + 1 || box.top < frame.top - 1);
          }).map((text) => text.textContent);
        }"""
    )


def words_that_overlap(page):
    """Pairs of texts of the picture that lie on each other."""
    return page.locator(".mv-stage svg").first.evaluate(
        """(root) => {
          const all = [...root.querySelectorAll("text")]
            .filter((text) => text.textContent)
            .map((text) => [text.textContent, text.getBoundingClientRect()]);
          const found = [];
          for (const [n, [a, p]] of all.entries())
            for (const [b, q] of all.slice(n + 1))
              if (p.left < q.right - 1 && q.left < p.right - 1 &&
                  p.top < q.bottom - 3 && q.top < p.bottom - 3)
                found.push(`${a} | ${b}`);
          return found;
        }"""
    )
