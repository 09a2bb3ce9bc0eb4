"""Pictures: data in, drawn axes out, shown as plates on page and phone."""
