#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-3.0-or-later OR GPL-2.0-only
#
#     json-schema.py SCHEMA COMMAND < ANSWER    is the answer as the schema says, and no more?
#     json-schema.py SCHEMA --list              the commands that have a schema
#
# A reader must bear members that it does not know; here one that is not in the schema is a
# mistake, so that none is forgotten.
import json
import sys

sys.path.pop(0)     # this folder, whose http.py is not Python's
import jsonschema


def close_objects(node):
    if isinstance(node, dict):
        if "properties" in node:
            node.setdefault("additionalProperties", False)
        for child in node.values():
            close_objects(child)
    elif isinstance(node, list):
        for child in node:
            close_objects(child)


with open(sys.argv[1]) as file:
    schema = json.load(file)
jsonschema.Draft202012Validator.check_schema(schema)
answers = schema["$defs"]["answers"]["$defs"]
if sys.argv[2] == "--list":
    print("\n".join(answers))
    sys.exit()
answer = json.load(sys.stdin)
# As published, for any command; then closely, for this one.
jsonschema.validate(answer, schema, jsonschema.Draft202012Validator)
close_objects(schema)
schema["$ref"] = "#/$defs/answers/$defs/" + sys.argv[2].replace(" ", "%20")
errors = list(jsonschema.Draft202012Validator(schema).iter_errors(answer))
for error in errors:
    print("%s: %s" % (error.json_path, error.message))
sys.exit(1 if errors else 0)
