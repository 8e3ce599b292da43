"""People's door: the OpenAI endpoint, feedback, domains and rounds over HTTP; the page and the command line on top of it."""
