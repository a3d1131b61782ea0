"""What a person looks at: pictures of clips and of where their scores come from."""
