import pytest

from sandbox.errors import RefusedError
from sandbox.media import Media, boundary_of, negotiate

BOUNDARIES = {
    'multipart/related; type="application/dicom"; boundary=abc': "abc",
    'Multipart/Related;boundary="a b:c";Type="Application/DICOM"': "a b:c",
    'multipart/related ; type="application/dicom" ; boundary="a\\"b"': None,
    'multipart/related; type="application/dicom"; start="<a>"; boundary=abc': "abc",
}


@pytest.mark.parametrize(("content_type", "boundary"), BOUNDARIES.items())
def test_the_boundary_is_found_in_a_valid_content_type(content_type: str, boundary: str | None) -> None:
    """Case, blanks, quotes and the order of parameters make no difference; a boundary outside its set does."""
    if boundary is None:
        with pytest.raises(RefusedError, match="expected a boundary of 1 to 70 characters"):
            boundary_of(content_type)
    else:
        assert boundary_of(content_type) == boundary


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        (None, 415),
        ("application/dicom", 415),
        ('multipart/form-data; type="application/dicom"; boundary=b', 415),
        ("multipart/related; boundary=b", 415),
        ('multipart/related; type="application/dicom+xml"; boundary=b', 415),
        ("multipart/related; type=application/dicom; boundary=b", 400),
        ('multipart/related; type="application/dicom"', 400),
        ('multipart/related; type="application/dicom"; boundary=', 400),
        ('multipart/related; type="application/dicom"; boundary=""', 400),
        ('multipart/related; type="application/dicom"; boundary="b "', 400),
        ('multipart/related; type="application/dicom"; boundary=b; boundary=c', 400),
        (f'multipart/related; type="application/dicom"; boundary={"b" * 71}', 400),
        ('multipart/related; type="application/dicom" boundary=b', 400),
        ("", 400),
    ],
)
def test_another_content_type_is_refused(content_type: str | None, status: int) -> None:
    """Another media type is 415, a malformed one or a missing or invalid boundary is 400."""
    with pytest.raises(RefusedError, match="expected") as refused:
        boundary_of(content_type)
    assert refused.value.status == status


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        (None, Media.JSON),
        ("", Media.JSON),
        ("*/*", Media.JSON),
        ("application/*", Media.JSON),
        ("application/dicom+json", Media.JSON),
        ("application/dicom+xml", Media.XML),
        ("Application/DICOM+XML", Media.XML),
        ("application/dicom+xml, application/dicom+json", Media.JSON),
        ("application/dicom+xml, application/dicom+json;q=0.9", Media.XML),
        ("application/dicom+xml;q=0.5,*/*;q=0.1", Media.XML),
        ("*/*, application/dicom+json;q=0", Media.XML),
        ("text/html, application/dicom+xml; charset=utf-8 ;q=0.001", Media.XML),
        ('text/html;x="a,b", application/dicom+xml', Media.XML),
        ("application/dicom+json;q=nonsense, application/dicom+xml;q=0.2", Media.XML),
    ],
)
def test_the_answer_is_negotiated_by_weight(accept: str | None, media: Media) -> None:
    """The heavier media type wins, the more specific range gives the weight, JSON wins a draw."""
    assert negotiate(accept) is media


@pytest.mark.parametrize(
    "accept",
    ["text/html", "application/json", "application/dicom+json;q=0", "*/*;q=0.000", "application/dicom+json;q=2", "??"],
)
def test_an_answer_that_nobody_takes_is_refused(accept: str) -> None:
    """406 if neither JSON nor XML is acceptable."""
    with pytest.raises(RefusedError, match=r"application/dicom\+json or application/dicom\+xml") as refused:
        negotiate(accept)
    assert refused.value.status == 406
