_hpal_completion() {
    local IFS=$'
'
    local words=() before= cword=$COMP_CWORD i
    for (( i = 0; i < ${#COMP_WORDS[@]}; i++ )); do
        if [[ ${COMP_WORDS[i]} == = && $before == --* ]]; then
            (( i >= COMP_CWORD )) || (( cword-- ))
        else
            words+=("${COMP_WORDS[i]}")
        fi
        before=${COMP_WORDS[i]}
    done
    COMPREPLY=( $( env COMP_WORDS="${words[*]}" \
                   COMP_CWORD=$cword \
                   _HPAL_COMPLETE=complete_bash $1 ) )
    return 0
}

complete -o default -F _hpal_completion hpal
