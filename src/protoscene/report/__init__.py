"""The report: one self-contained page that shows a scene beside the recording it explains."""

from protoscene.report.page import Page, page, write_page

__all__ = ["Page", "page", "write_page"]
