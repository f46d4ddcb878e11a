"""Answers of real archives, in the form in which their documentation, their source or they themselves give them.

docs/archives.md names the sources, and says what an operator makes of it.
"""

import json
from dataclasses import dataclass
from typing import Any

import pytest

from common.records import Cause
from uploader.response import parse
from uploader.verdict import Answer, Kind, Split, Trouble, judge

OURS = "1.2.826.0.1.3680043.8.498.1"
OTHER = "1.2.826.0.1.3680043.8.498.2"
CT = "1.2.840.10008.5.1.4.1.1.2"
JSON = "application/dicom+json"


def us(number: int) -> dict[str, Any]:
    return {"vr": "US", "Value": [number]}


def item(uid: str, **more: Any) -> dict[str, Any]:
    """An item of ReferencedSOPSequence or FailedSOPSequence."""
    return {"00081150": {"vr": "UI", "Value": [CT]}, "00081155": {"vr": "UI", "Value": [uid]}, **more}


def failed(reason: int, **more: Any) -> str:
    """One failed instance, ours."""
    return json.dumps({"00081198": {"vr": "SQ", "Value": [item(OURS, **{"00081197": us(reason)}, **more)]}})


# Orthanc: answers of Orthanc 1.10.1 with its DICOMweb plugin 1.7.
ORTHANC_STORED = json.dumps(
    {
        "00080005": {"Value": ["ISO_IR 100"], "vr": "CS"},
        "00081190": {"Value": ["http://127.0.0.1:8042/dicom-web/studies/1.2.826.0.1.3680043.8.498.9"], "vr": "UR"},
        "00081198": {"vr": "SQ"},
        "00081199": {
            "Value": [item(OURS, **{"00081190": {"vr": "UR", "Value": ["http://127.0.0.1:8042/…"]}})],
            "vr": "SQ",
        },
    },
    indent=3,
)
ORTHANC_UNPARSABLE = (
    '{\n\t"00080005" : \n\t{\n\t\t"Value" : \n\t\t[\n\t\t\t"ISO_IR 100"\n\t\t],\n\t\t"vr" : "CS"\n\t},'
    '\n\t"00081198" : \n\t{\n\t\t"vr" : "SQ"\n\t},\n\t"00081199" : \n\t{\n\t\t"vr" : "SQ"\n\t}\n}\n'
)
ORTHANC_ERROR = json.dumps(
    {
        "HttpError": "Internal Server Error",
        "HttpStatus": 500,
        "Message": "The file storage is full",
        "Method": "POST",
        "OrthancError": "Cannot write to the file storage area",
        "OrthancStatus": 2008,
        "Uri": "/dicom-web/studies",
    }
)

# Azure: docs, DICOM Conformance Statement v2, "Store response payload" and the reason codes after it.
AZURE_BOTH = """{
  "00081190": {"vr":"UR", "Value":["http://localhost/studies/d09e8215-e1e1-4c7a-8496-b4f6641ed232"]},
  "00081198": {"vr":"SQ", "Value": [{
      "00081150": {"vr":"UI","Value":["%(class)s"]},
      "00081155": {"vr":"UI", "Value":["%(ours)s"]},
      "00081197": {"vr":"US", "Value":[%(reason)d]}
  }]},
  "00081199": {"vr":"SQ", "Value": [{
      "00081150": {"vr":"UI", "Value":["%(class)s"]},
      "00081155": {"vr":"UI", "Value":["%(other)s"]},
      "00081190": {"vr":"UR", "Value":["http://localhost/studies/1/series/2/instances/3"]}
  }]}
}"""
AZURE_WARNED = json.dumps(
    {
        "00081199": {
            "vr": "SQ",
            "Value": [
                item(
                    OURS,
                    **{
                        "00081196": us(1),
                        "00741048": {
                            "vr": "SQ",
                            "Value": [
                                {
                                    "00000902": {
                                        "vr": "LO",
                                        "Value": ['DICOM100: (0008,0020) - Content "NotAValidDate" …'],
                                    }
                                }
                            ],
                        },
                    },
                )
            ],
        }
    }
)

# Google: the answer that a user quotes in dcmjs-org/dcmjs issue 249; FailureDetail is private, and says in words why.
GOOGLE_409 = (
    '<NativeDicomModel><DicomAttribute tag="00081190" vr="UR" keyword="RetrieveURL"><Value number="1">'
    "https://healthcare.googleapis.com/v1/projects/p/locations/l/datasets/d/dicomStores/s/dicomWeb/studies/1.3"
    '</Value></DicomAttribute><DicomAttribute tag="00081198" vr="SQ" keyword="FailedSOPSequence"><Item number="1">%s'
    '<DicomAttribute tag="00081197" vr="US" keyword="FailureReason"><Value number="1">272</Value></DicomAttribute>'
    '<DicomAttribute tag="00090097" vr="LT" keyword="FailureDetail" privateCreator="GOOGLE"><Value number="1">'
    "already exists</Value></DicomAttribute></Item></DicomAttribute></NativeDicomModel>"
)
GOOGLE_UID = f'<DicomAttribute tag="00081155" vr="UI"><Value number="1">{OURS}</Value></DicomAttribute>'
GOOGLE_QUOTA = json.dumps(
    [{"error": {"code": 429, "message": "Quota exceeded for quota metric", "status": "RESOURCE_EXHAUSTED"}}]
)

# nginx: its built-in pages (src/http/ngx_http_special_response.c).
NGINX = (
    "<html>\r\n<head><title>{0}</title></head>\r\n<body>\r\n<center><h1>{0}</h1></center>\r\n"
    "<hr><center>nginx/1.22.1</center>\r\n</body>\r\n</html>\r\n"
)


@dataclass(frozen=True)
class Case:
    """An answer to a request with our instance alone, and its verdict."""

    name: str
    status: int
    body: str
    kind: Kind
    cause: Cause = Cause.NONE
    content_type: str = JSON


SENT, TEMPORARY, PERMANENT = Kind.SENT, Kind.TEMPORARY, Kind.PERMANENT
CASES = [
    Case("Orthanc stored it", 200, ORTHANC_STORED, SENT),
    Case("Orthanc cannot parse it", 400, ORTHANC_UNPARSABLE, PERMANENT, Cause.REFUSED),
    Case("dcm4chee's disk is full", 409, failed(0xA700), TEMPORARY, Cause.GAVE_UP),
    Case("dcm4chee fails at something", 409, failed(0x0110), TEMPORARY, Cause.GAVE_UP),
    Case("dcm4chee: an instance that was rejected there", 409, failed(0xA771), TEMPORARY, Cause.GAVE_UP),
    Case("dcm4chee: another Patient ID", 409, failed(0xA778), TEMPORARY, Cause.GAVE_UP),
    Case("dcm4chee: not authorised", 409, failed(0x0124), PERMANENT, Cause.REFUSED),
    Case("dcm4chee cannot understand it", 409, failed(0xC000), PERMANENT, Cause.REFUSED),
    Case("Azure has it already", 409, failed(45070), SENT, Cause.DUPLICATE),
    Case("Azure is creating it", 409, failed(45071), TEMPORARY, Cause.GAVE_UP),
    Case("Azure finds it invalid", 409, failed(43264, **{"00741048": {"vr": "SQ"}}), PERMANENT, Cause.REFUSED),
    Case("Azure: another study", 409, failed(43265), PERMANENT, Cause.REFUSED),
    Case("Azure fails at something", 409, failed(272), TEMPORARY, Cause.GAVE_UP),
    Case("Azure stored it with warnings", 202, AZURE_WARNED, SENT, Cause.WARNING),
    Case("Azure: nothing in the request", 204, "", TEMPORARY, Cause.GAVE_UP),
    Case("Azure takes no such Content-Type", 415, "", PERMANENT, Cause.REFUSED),
    Case(
        "Google has another one, and names it",
        409,
        GOOGLE_409 % GOOGLE_UID,
        TEMPORARY,
        Cause.GAVE_UP,
        "application/dicom+xml",
    ),
    Case("Google names nobody", 409, GOOGLE_409 % "", PERMANENT, Cause.CONFLICT, "application/dicom+xml"),
    Case(
        "AWS stored what it cannot transcode",
        202,
        json.dumps({"00081199": {"vr": "SQ", "Value": [item(OURS, **{"00081196": us(0xB100)})]}}),
        SENT,
        Cause.WARNING,
    ),
    Case(
        "AWS finds the request invalid",
        400,
        '{"message":"Invalid request"}',
        PERMANENT,
        Cause.REFUSED,
        "application/json",
    ),
    Case(
        "nginx takes no body so large",
        413,
        NGINX.format("413 Request Entity Too Large"),
        PERMANENT,
        Cause.TOO_LARGE,
        "text/html",
    ),
    Case(
        "nginx answers instead of the archive", 200, NGINX.format("Welcome"), TEMPORARY, Cause.UNCONFIRMED, "text/html"
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_an_archive_says_of_an_instance(case: Case) -> None:
    """Each answer, read from its text, gives the verdict that docs/archives.md promises."""
    answer = Answer(status=case.status, response=parse(case.body.encode(), case.content_type))
    judgement = judge(answer, [OURS])
    assert isinstance(judgement, dict), judgement
    assert (judgement[OURS].kind, judgement[OURS].cause) == (case.kind, case.cause)


TROUBLES = {
    "Orthanc's disk is full": (500, ORTHANC_ERROR, False, True),
    "dcm4chee met an exception": (500, "java.lang.NullPointerException\n\tat org.dcm4chee…", False, True),
    "dcm4chee: no such AE": (404, '{"errorMessage":"No such Application Entity: X"}', True, False),
    "Azure cannot reach its storage or key vault": (424, "", False, False),
    "Azure is busy": (503, "", False, True),
    "Azure does not answer in such a form": (406, "", True, False),
    "Google's quota": (429, GOOGLE_QUOTA, False, False),
    "Google: no right to store": (403, '[{"error": {"code": 403, "status": "PERMISSION_DENIED"}}]', True, False),
    "AWS throttles": (429, '{"message":"Rate exceeded"}', False, False),
    "AWS: a quota of the account": (402, '{"message":"Service quota exceeded"}', True, False),
    "AWS: the signature is wrong": (
        403,
        '{"message":"The request signature we calculated does not match"}',
        True,
        False,
    ),
    "nginx: the archive is away": (502, NGINX.format("502 Bad Gateway"), False, True),
    "nginx: the archive is slow": (504, NGINX.format("504 Gateway Time-out"), False, True),
    "nginx: limit_req": (503, NGINX.format("503 Service Temporarily Unavailable"), False, True),
    "nginx asks for a password": (401, NGINX.format("401 Authorization Required"), True, False),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_what_an_archive_says_of_itself(name: str) -> None:
    """What is about the archive or the way to it pauses, charges nobody and quarantines nothing, in a batch too."""
    status, body, setup, suspect = TROUBLES[name]
    for uids in ([OURS], [OURS, OTHER]):
        judgement = judge(Answer(status=status, response=parse(body.encode(), "")), uids)
        assert isinstance(judgement, Trouble)
        assert (judgement.setup, judgement.suspect) == (setup, suspect)


@pytest.mark.parametrize(
    ("reason", "kind", "cause"),
    [(45070, SENT, Cause.DUPLICATE), (45071, TEMPORARY, Cause.GAVE_UP), (43265, PERMANENT, Cause.REFUSED)],
)
def test_azures_answer_to_a_batch_is_taken_apart(reason: int, kind: Kind, cause: Cause) -> None:
    """202 with one stored and one failed: each has its own verdict."""
    body = AZURE_BOTH % {"class": CT, "ours": OURS, "other": OTHER, "reason": reason}
    judgement = judge(Answer(status=202, response=parse(body.encode(), JSON)), [OURS, OTHER])
    assert isinstance(judgement, dict)
    assert (judgement[OURS].kind, judgement[OURS].cause) == (kind, cause)
    assert judgement[OTHER].kind is SENT


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, ORTHANC_UNPARSABLE),
        (409, GOOGLE_409 % ""),
        (400, '{"message":"Invalid request"}'),
        (413, NGINX.format("413 Request Entity Too Large")),
    ],
    ids=["Orthanc", "Google", "AWS", "nginx"],
)
def test_a_batch_that_is_refused_without_a_name_is_split(status: int, body: str) -> None:
    """Orthanc with one part that it cannot parse, Google, AWS and nginx say nothing of each instance."""
    answer = Answer(
        status=status, response=parse(body.encode(), "application/dicom+xml" if body.startswith("<N") else "")
    )
    assert isinstance(judge(answer, [OURS, OTHER]), Split)
