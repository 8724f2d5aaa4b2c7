"""The web page: pictures dropped into a browser, restored by a `Restorer` as by the command line.

`desk` holds what is done with pictures, without a browser; `page` lays it out; `server` opens it to browsers.
"""
