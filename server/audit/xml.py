"""An audit message as XML, in the schema of PS3.15 A.5.1.

Rule: pure. Characters that XML 1.0 cannot have are replaced, so that no name that a peer made up breaks a message; the
values of details are base64, as the schema wants them.
"""

import base64
import datetime as dt
import ipaddress
import re
from typing import Final
from xml.etree.ElementTree import Element, SubElement, tostring

from coffer.server.audit.codes import EVENT_IDS, Coded
from coffer.server.audit.message import AuditMessage, Participant, ParticipantObject

__all__ = ["encoded"]

_FORBIDDEN: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_APPLICATION_SERVER: Final = "4"  # A.5.1.2.1


def encoded(message: AuditMessage) -> bytes:
    """The message as one line of UTF-8 without declaration."""
    root = Element("AuditMessage")
    event = SubElement(root, "EventIdentification")
    event.set("EventActionCode", message.action_code)
    event.set("EventDateTime", _date_time(message.at_ms))
    event.set("EventOutcomeIndicator", str(message.outcome))
    _coded(event, "EventID", EVENT_IDS[message.kind])
    for each in message.types:
        _coded(event, "EventTypeCode", each)
    if message.description:
        SubElement(event, "EventOutcomeDescription").text = _plain(message.description)
    for participant in message.participants:
        _participant(root, participant)
    source = SubElement(root, "AuditSourceIdentification")
    source.set("AuditSourceID", _plain(message.source.name))
    SubElement(source, "AuditSourceTypeCode").set("csd-code", _APPLICATION_SERVER)
    for each_object in message.objects:
        _object(root, each_object)
    made: bytes = tostring(root, encoding="utf-8", xml_declaration=False)
    return made


def _participant(root: Element, of: Participant) -> None:
    made = SubElement(root, "ActiveParticipant")
    made.set("UserID", _plain(of.user_id))
    if of.ae_title:
        made.set("AlternativeUserID", f"AETITLE={_plain(of.ae_title)}")
    if of.name:
        made.set("UserName", _plain(of.name))
    made.set("UserIsRequestor", "true" if of.is_requestor else "false")
    if of.host:
        made.set("NetworkAccessPointID", _plain(of.host))
        made.set("NetworkAccessPointTypeCode", "2" if _is_address(of.host) else "1")
    for role in of.roles:
        _coded(made, "RoleIDCode", role)
    if of.media is not None:
        _coded(SubElement(made, "MediaIdentifier"), "MediaType", of.media)


def _object(root: Element, of: ParticipantObject) -> None:
    made = SubElement(root, "ParticipantObjectIdentification")
    made.set("ParticipantObjectID", _plain(of.object_id))
    made.set("ParticipantObjectTypeCode", str(of.type_code))
    made.set("ParticipantObjectTypeCodeRole", str(of.role))
    _coded(made, "ParticipantObjectIDTypeCode", of.id_type)
    if of.query:
        SubElement(made, "ParticipantObjectQuery").text = of.query
    else:  # the schema wants one of the two
        SubElement(made, "ParticipantObjectName").text = _plain(of.name)
    for kind, value in of.details:
        detail = SubElement(made, "ParticipantObjectDetail")
        detail.set("type", kind)
        detail.set("value", base64.b64encode(value.encode("utf-8", "replace")).decode())
    if of.classes:
        described = SubElement(made, "ParticipantObjectDescription")
        for uid, count in of.classes:
            found = SubElement(described, "SOPClass")
            found.set("UID", _plain(uid))
            found.set("NumberOfInstances", str(count))


def _coded(parent: Element, name: str, value: Coded) -> None:
    made = SubElement(parent, name)
    made.set("csd-code", value.code)
    made.set("codeSystemName", value.system)
    made.set("displayName", value.meaning)
    made.set("originalText", value.meaning)


def _date_time(ms: int) -> str:
    return dt.datetime.fromtimestamp(ms / 1000, dt.UTC).isoformat(timespec="milliseconds")


def _plain(text: str) -> str:
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
