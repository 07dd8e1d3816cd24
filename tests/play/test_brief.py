from seqdec.play.brief import brief


def test_a_brief_text_keeps_its_words_in_one_line():
    room = (
        "You are in the bedroom. In one part of the room you see a dressing table, that has nothing on it. There is "
        "also a wardrobe that is closed. You also see an azure shirt. \nTo the North you see the corridor. "
    )
    assert brief(room) == (
        "bedroom: dressing table, wardrobe (closed), azure shirt, To the North you see the corridor."
    )  # fmt: skip
    recipe = "Gather all.\n\nIngredients:\n  olive oil\n  leek\n\nDirections:\n  fry the leek\n"
    assert brief(recipe) == "Gather all, Ingredients: olive oil, leek, Directions: fry the leek"
    assert brief("") == brief(" \n ") == "" and brief("You take the clean shirt.") == "You take the clean shirt."


def test_a_brief_room_of_science_keeps_its_doors():
    room = (
        "This room is called the hallway. In it, you see: \n\tthe agent\n\ta substance called air\n\ta picture\n"
        "You also see:\n\tA door to the kitchen (that is open)\n\tA door to the workshop (that is closed)"
    )
    assert brief(room) == (
        "hallway: air, picture, You also see: door to the kitchen (open), door to the workshop (closed)"
    )  # fmt: skip
