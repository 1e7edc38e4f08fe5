// SPDX-License-Identifier: Apache-2.0

package lab

import "context"

func (l *Lab) raiseHistory(ctx context.Context, s *State) ([]string, error) {
	return nil, nil
}
