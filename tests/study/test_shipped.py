from inoculate.study.shipped import shipped_studies


def test_shipped_studies_are_found_by_name():
    found = shipped_studies()
    assert {"demo", "paper"} <= set(found)
    assert all(path.is_file() for path in found.values())
