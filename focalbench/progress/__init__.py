"""Shows how far a sweep or a download is: rows with bars on a terminal or in a notebook, else lines now and then."""
