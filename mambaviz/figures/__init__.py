"""Still pictures: data in, matplotlib Figure out, shown as plates."""
