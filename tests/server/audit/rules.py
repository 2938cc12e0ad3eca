"""What PS3.15 A.5 asks of an audit message, written from its text and tables, to judge what the product writes.

It uses the XML parser of the standard library and shares no code with the product. The schema's part (A.5.1): which
elements and attributes there are, in which order, and their values. The tables' part (A.5.3): for each event its codes,
who takes part in which role, and which objects.
"""

import base64
import re
from collections import Counter
from xml.etree.ElementTree import Element, fromstring

CODED = {"csd-code", "codeSystemName", "displayName", "originalText"}
DATE_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?([+-]\d{2}:\d{2}|Z)")
DESTINATION, SOURCE, APPLICATION, LAUNCHER, TO_MEDIA, FROM_MEDIA = (
    "110152", "110153", "110150", "110151", "110154", "110155",
)  # fmt: skip
STUDY, SOP_CLASS, PATIENT, URI = "110180", "110181", "2", "12"
# By EventID: its meaning, action codes, type codes, roles that there must be, and kinds of objects there must be.
EVENTS: dict[str, tuple[str, set[str], set[str], Counter[str], set[str]]] = {
    "110100": ("Application Activity", {"E"}, {"110120", "110121"}, Counter([APPLICATION, LAUNCHER]), set()),
    "110101": ("Audit Log Used", {"R"}, set(), Counter(), {URI}),
    "110102": ("Begin Transferring DICOM Instances", {"E"}, set(), Counter([SOURCE, DESTINATION]), {STUDY, PATIENT}),
    "110103": ("DICOM Instances Accessed", {"C", "R", "U", "D"}, set(), Counter(), {STUDY, PATIENT}),
    "110104": ("DICOM Instances Transferred", {"C", "R", "U"}, set(), Counter([SOURCE, DESTINATION]), {STUDY, PATIENT}),
    "110105": ("DICOM Study Deleted", {"D"}, set(), Counter(), {STUDY, PATIENT}),
    "110106": ("Export", {"R"}, set(), Counter([SOURCE, TO_MEDIA]), {STUDY, PATIENT}),
    "110107": ("Import", {"C"}, set(), Counter([DESTINATION, FROM_MEDIA]), {STUDY, PATIENT}),
    "110112": ("Query", {"E"}, set(), Counter([SOURCE, DESTINATION]), {SOP_CLASS}),
    "110113": ("Security Alert", {"E"}, {str(code) for code in range(110126, 110139)}, Counter(), {URI}),
    "110114": ("User Authentication", {"E"}, {"110122", "110123"}, Counter(), set()),
}


def require(holds: object, what: str) -> None:
    """Raise AssertionError unless it holds."""
    assert holds, what


def require_sound(text: bytes) -> Element:
    """The message's root, if it obeys schema and tables."""
    root = fromstring(text)  # the product wrote it
    require(root.tag == "AuditMessage" and not root.attrib, "the root")
    names = [each.tag for each in root]
    order = ["EventIdentification", "ActiveParticipant", "AuditSourceIdentification", "ParticipantObjectIdentification"]
    require(names == sorted(names, key=order.index), "the order of the parts")
    counts = Counter(names)
    require((counts[order[0]], counts[order[2]]) == (1, 1) and counts[order[1]] >= 1, "how many of each part")
    _event(root[0])
    for each in root.iter("ActiveParticipant"):
        _participant(each)
    _source(root.find(order[2]))
    for each in root.iter(order[3]):
        _object(each)
    _tables(root)
    return root


def _coded(element: Element, name: str) -> None:
    require(element.tag == name and set(element.attrib) == CODED, f"{name} is coded")
    require(len(element) == 0 and not element.text, f"{name} has no content")


def _event(event: Element) -> None:
    require(set(event.attrib) == {"EventActionCode", "EventDateTime", "EventOutcomeIndicator"}, "the event")
    require(event.get("EventActionCode") in set("CRUDE"), "the action code")
    require(event.get("EventOutcomeIndicator") in {"0", "4", "8", "12"}, "the outcome")
    require(DATE_TIME.fullmatch(event.get("EventDateTime") or ""), "the time")
    _coded(event[0], "EventID")
    rest = list(event[1:])
    if rest and rest[-1].tag == "EventOutcomeDescription":
        require(rest.pop().text, "a description has text")
    for each in rest:
        _coded(each, "EventTypeCode")


def _participant(of: Element) -> None:
    may = {"UserID", "AlternativeUserID", "UserName", "UserIsRequestor"}
    network = {"NetworkAccessPointID", "NetworkAccessPointTypeCode"}
    require({"UserID", "UserIsRequestor"} <= set(of.attrib) <= may | network, "a participant")
    require(of.get("UserID"), "who takes part")
    require(of.get("UserIsRequestor") in {"true", "false"}, "whether it is the requestor")
    require(network <= set(of.attrib) or not network & set(of.attrib), "an access point has a type")
    require(of.get("NetworkAccessPointTypeCode", "1") in set("12345"), "the type of an access point")
    for each in of:
        if each.tag == "MediaIdentifier":
            _coded(each[0], "MediaType")
        else:
            _coded(each, "RoleIDCode")


def _source(of: Element | None) -> None:
    assert of is not None
    require(of.get("AuditSourceID"), "the source")
    (kind,) = of
    require(kind.tag == "AuditSourceTypeCode" and kind.get("csd-code") in set("123456789"), "the type of the source")


def _object(of: Element) -> None:
    must = {"ParticipantObjectID", "ParticipantObjectTypeCode", "ParticipantObjectTypeCodeRole"}
    require(set(of.attrib) == must and of.get("ParticipantObjectID"), "an object")
    require(of.get("ParticipantObjectTypeCode") in set("1234"), "its type")
    require(1 <= int(of.get("ParticipantObjectTypeCodeRole") or 0) <= 26, "its role")
    _coded(of[0], "ParticipantObjectIDTypeCode")
    require(of[1].tag in {"ParticipantObjectName", "ParticipantObjectQuery"}, "a name or a query")
    if of[1].tag == "ParticipantObjectQuery":
        base64.b64decode(of[1].text or "", validate=True)
    for each in of[2:]:
        require(each.tag in {"ParticipantObjectDetail", "ParticipantObjectDescription"}, "what may follow")
        if each.tag == "ParticipantObjectDetail":
            require(set(each.attrib) == {"type", "value"}, "a detail")
            base64.b64decode(each.get("value") or "", validate=True)
        for found in each:
            require(found.tag == "SOPClass" and int(found.get("NumberOfInstances") or -1) >= 0, "a SOP class")


def _tables(root: Element) -> None:
    event = root[0]
    event_id = event[0].get("csd-code") or ""
    meaning, actions, types, roles, kinds = EVENTS[event_id]
    require(event[0].get("displayName") == meaning and event[0].get("codeSystemName") == "DCM", "the event's code")
    require(event.get("EventActionCode") in actions, "an action of this event")
    found_types = {each.get("csd-code") for each in event.iter("EventTypeCode")}
    require(found_types <= types and bool(found_types) == bool(types), "the types of this event")
    found_roles = Counter(each.get("csd-code") or "" for each in root.iter("RoleIDCode"))
    require(found_roles == roles, "the roles of this event")
    requestors = [each for each in root.iter("ActiveParticipant") if each.get("UserIsRequestor") == "true"]
    require(len(requestors) == 1, "somebody requested it")
    objects = list(root.iter("ParticipantObjectIdentification"))
    found = [each[0].get("csd-code") for each in objects]
    require(set(found) == kinds, "the objects of this event")
    require(found.count(PATIENT) <= 1, "it is about one patient")
    for each in objects:
        given = each.get("ParticipantObjectTypeCode"), each.get("ParticipantObjectTypeCodeRole")
        expected = {PATIENT: ("1", "1"), STUDY: ("2", "3"), SOP_CLASS: ("2", "3"), URI: ("2", "13")}
        require(given == expected[each[0].get("csd-code") or ""], "type and role of an object")
    if event_id == "110101":
        require(objects[0][1].text == "Security Audit Log", "the name of the log")
    if event_id == "110112":
        details = {each.get("type"): each.get("value") for each in root.iter("ParticipantObjectDetail")}
        require(objects[0][1].text and details["TransferSyntax"], "a query and its encoding")
    if event_id == "110113":
        assert any(each.get("type") == "Alert Description" for each in root.iter("ParticipantObjectDetail"))
    if event_id in {"110106", "110107"}:
        require(root.find("ActiveParticipant/MediaIdentifier/MediaType") is not None, "the medium")
