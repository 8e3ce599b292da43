"""Training examples in the field's formats, in and out: one file for each, and one row in `api.formats.shapes.SHAPES`."""
