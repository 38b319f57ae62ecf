"""Parts of the report page: the network's layout, plots, pictures, the way to do it again; page.html, .css and .js."""
