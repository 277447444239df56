"""Checks objects, one JSON text a line: {"object", "version"} against the schemas of that version of Kubernetes, with no
field that they do not know; {"object", "schema"} against a schema of its own. Prints what is wrong, a line each."""

import json
import sys

import jsonschema
import kubernetes_validate


def complaints(line):
    if "schema" in line:
        validator = jsonschema.Draft202012Validator(line["schema"])
        return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(line["object"])]
    try:
        kubernetes_validate.validate(line["object"], line["version"], strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message}"]
    except (kubernetes_validate.SchemaNotFoundError, kubernetes_validate.VersionNotSupportedError) as error:
        return [str(error)]
    return []


for text in sys.stdin:
    line = json.loads(text)
    meta = line["object"].get("metadata", {})
    for complaint in complaints(line):
        place = line.get("version", "definition")
        print(f"{line['object'].get('kind')} {meta.get('name')} ({place}): {complaint}")
