"""An exact cache of answers: an equal request gets the answer that an earlier one got, and nobody another's."""
