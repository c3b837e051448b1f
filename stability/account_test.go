package stability

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// An account may change its number and keep its LID. Its own messages are not set
// aside as another's.
func TestAccountWithAnotherNumberIsTheSameByItsLID(t *testing.T) {
	for name, c := range map[string]struct {
		of, own ownNames
		two     bool
	}{
		"another":                          {ownNames{"1", "11"}, ownNames{"2", "22"}, true},
		"another, one LID is not known":    {ownNames{"1", ""}, ownNames{"2", "22"}, true},
		"the same":                         {ownNames{"1", "11"}, ownNames{"1", "11"}, false},
		"the same, one LID is not known":   {ownNames{"1", ""}, ownNames{"1", "11"}, false},
		"a number that was changed":        {ownNames{"1", "11"}, ownNames{"2", "11"}, false},
		"a row of an earlier version":      {ownNames{}, ownNames{"2", "22"}, false},
		"the present account is not known": {ownNames{"1", "11"}, ownNames{}, false},
	} {
		require.Equal(t, c.two, c.of.other(c.own), name)
	}
}
