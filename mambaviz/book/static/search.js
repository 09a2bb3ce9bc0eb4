// The excerpts of the search page, from the texts that stand in the page.
//
// Sphinx's search fetches each page that it has found; a browser refuses that
// from file://. It is answered here instead, on file:// and on a server alike.
// Loaded after search-texts.js and searchindex.js.

(() => {
  "use strict";
  const root = new URL(document.documentElement.dataset.content_root, location);
  const fetchElsewhere = window.fetch;

  window.fetch = (request, options) => {
    const url = new URL(request instanceof Request ? request.url : request, location);
    const name = url.href.slice(root.href.length).replace(/\.html$/, "");
    if (!url.href.startsWith(root.href) || !(name in searchTexts)) {
      return fetchElsewhere(request, options);
    }
    const page = `<main role="main">${searchTexts[name]}</main>`;
    return Promise.resolve(new Response(page));
  };
})();
