"""The web page: what people see in a browser, without and with JavaScript."""
