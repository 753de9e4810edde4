"""The application's pages. They need the extra ``[report]`` and no torch."""
