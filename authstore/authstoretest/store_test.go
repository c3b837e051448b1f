package authstoretest

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/stability/memorybackend"
)

func TestAWrapperThatHidesMethodsIsNamed(t *testing.T) {
	c := authstore.New(memorybackend.New().Backend().Auth)
	StoreIsComplete(t, c)
	StoreIsComplete(t, struct{ *authstore.Container }{c})
	require.Equal(t, []string{"PurgeDevice", "PurgeRows", "Quarantined", "Reseal", "Restore"},
		lacking(struct{ authstore.Store }{c}))
	require.Equal(t, []string{"PurgeRows"}, lacking(otherPurge{c}), "a method of another shape is none")
}

type otherPurge struct{ *authstore.Container }

func (otherPurge) PurgeRows(context.Context) error { return nil }
