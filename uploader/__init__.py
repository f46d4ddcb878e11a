"""STOW-RS user agent: delivers what is in incoming/ to a DICOMweb destination."""
