"""The files of the page that classes are chosen on: plain HTML, CSS and JavaScript modules."""
