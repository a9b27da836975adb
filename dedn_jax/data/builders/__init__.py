"""From pictures as they are downloaded, or anyone's own, to prepared sets of pictures."""
