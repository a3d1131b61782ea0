"""Reports for people: pictures of clips and of where their scores come from."""
